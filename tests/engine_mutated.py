"""Model folders with one thing wrong, drawn from a number: what the tests of reading them share."""

import json
import random
import struct

WRONG = ("x", "", [], ["a"], {}, None, True, -1, 0, 0.5, 2**31, 2**40, 1e308, 10**9, float("nan"), "../../x", [[]], {"a": 1})


def _config(folder, draw, file="config.json"):
    path = folder / file
    settings = json.loads(path.read_text())
    place = settings
    key = draw.choice(sorted(place))
    while isinstance(place[key], (dict, list)) and place[key] and draw.random() < 0.8:
        place = place[key]
        key = draw.choice(sorted(place)) if isinstance(place, dict) else draw.randrange(len(place))
    place[key] = draw.choice(WRONG)
    path.write_text(json.dumps(settings))
    return f"{file}: {key} = {place[key]!r}"


def _tokenizer(folder, draw):
    return _config(folder, draw, draw.choice(["tokenizer.json", "tokenizer_config.json"]))


def _bytes(folder, draw):
    """Cut, turned over or filled with rubbish."""
    path = folder / draw.choice(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "generation_config.json"])
    whole = bytearray(path.read_bytes())
    at = draw.randrange(len(whole))
    match draw.randrange(3):
        case 0:
            del whole[at:]
        case 1:
            whole[at : at + 1] = draw.choice([b"\x00", b"\xff\xfe", b"{", b"]", b'"', b"1e999", b"[" * 100_000])
        case _:
            del whole[at : at + draw.randrange(1, 20)]
    path.write_bytes(bytes(whole))
    return f"{path.name} at {at}"


def _head(folder, draw):
    """The head of the weights: shapes, types, offsets and names that are not so."""
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    head, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    key = draw.choice(sorted(set(head) - {"__metadata__"}))
    match draw.randrange(4):
        case 0:
            head[key]["shape"] = draw.choice([head[key]["shape"][::-1], [1, *head[key]["shape"]], [2**40, 2**40], [-1], [0]])
        case 1:
            head[key]["dtype"] = draw.choice(["F64", "F16", "BF16", "I32", "U8", "F8_E4M3", "X"])
        case 2:
            head[draw.choice(["x", "module." + key])] = head.pop(key)
        case _:
            del head[key]
    made = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(made)) + made + data)
    return f"the head of the weights: {key}"


def _numbers(folder, draw):
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    at = draw.randrange(start, len(whole) - 4, 4)
    whole[at : at + 4] = struct.pack("<f", draw.choice([float("nan"), float("inf"), -float("inf")]))
    path.write_bytes(bytes(whole))
    return f"a weight at {at}"


def _index(folder, draw):
    names = ["../outside.safetensors", "/dev/zero", "model-1.safetensors", "below/x.safetensors", "x.bin", 5, None, ""]
    where = draw.choice([[], 7, "x", {}, {"a": draw.choice(names)}, {"a": {"b": "c"}}])
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(draw.choice([[], 3, {"metadata": {}, "weight_map": where}, {}])))
    return f"an index of {where!r}"


def _link(folder, draw):
    path = folder / draw.choice(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "generation_config.json"])
    path.unlink()
    to = draw.choice(["/dev/zero", "/dev/null", "nowhere", ".", path.name])
    path.symlink_to(to)
    return f"{path.name} -> {to}"


def mutate(folder, number):
    """Spoil one thing of a model's folder, drawn from `number`, and say what."""
    draw = random.Random(number)
    return draw.choice([_config, _config, _config, _tokenizer, _tokenizer, _bytes, _head, _numbers, _index, _link])(folder, draw)
