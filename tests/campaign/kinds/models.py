"""Model folders: weights, index, configuration and tokenizer."""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from campaign.inputs import Case
from campaign.kinds.rows import GOOD, RETAIN
from campaign.mutate import VALUES, damaged

Damage = Callable[[Path], None]
_PICKLE = b"\x80\x04cposix\nsystem\n(S'touch PWNED'\ntR."
CONFIGURED: list[dict[str, Any]] = [
    *({"vocab_size": n} for n in (2**31, 1, 131)),
    *({"hidden_size": n} for n in (2**20, 2**40, 7, -1)),
    *({"num_hidden_layers": n} for n in (0, 1, 10**6, 10**9)),
    *({"num_attention_heads": n} for n in (0, 3)),
    *(
        {"intermediate_size": 7},
        {"hidden_act": "eval"},
        {"model_type": "bert"},
        {"model_type": "t5"},
        {"model_type": 5},
        {"model_type": "zzz"},
    ),
    *({"architectures": ["Evil"]}, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"quantization_config": 3}),
    *({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, {"torch_dtype": "float8"}, {"dtype": "bfloat16"}),
    *({"rope_theta": 0}, {"rope_parameters": {"rope_type": "nope"}}, {"rope_scaling": {"type": "linear", "factor": -1}}),
    *({"max_position_embeddings": 0}, {"max_position_embeddings": 1}, {"rms_norm_eps": float("nan")}, {"bos_token_id": 99999}),
    *({"_attn_implementation": "flash_attention_2"}, {"tie_word_embeddings": True}, {"attention_dropout": 1.0}),
    {"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}, "model_type": "zzz"},
]
TOKENIZED: list[tuple[str, Any]] = [
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}),
    ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    ("normalizer", {"type": "Replace", "pattern": {"String": "1"}, "content": "1" * 1_000_000}),
    ("model", {"type": "BPE", "vocab": {}, "merges": []}),
    ("model", {"type": "WordLevel", "vocab": {"a": 99999999}, "unk_token": "a"}),
    ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}),
    (
        "added_tokens",
        [{"id": 2**31, "content": "x", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}],
    ),
    ("truncation", {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}),
    ("decoder", {"type": "Nope"}),
]


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    from steering_tiny import material

    (place / "f.jsonl").write_text(GOOD)
    (place / "r.jsonl").write_text(RETAIN)
    material(place / "made")
    good = place / "made" / "model"
    fixed = [*_weights(good, place), *_indexed(good), *map(_configured, CONFIGURED), *(_tokenized(*pair) for pair in TOKENIZED)]
    random_ones = [_truncated, _renamed, _configured_at_random, _configured_at_random, _configured_at_random]
    random_ones += [_damaged(name) for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")]
    scored: dict[str, Any] = {}
    number = 0
    while True:
        folder = place / "m"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        damage = fixed[number] if number < len(fixed) else rng.choice(random_ones)
        damage(folder) if number < len(fixed) else damage(folder, rng)  # type: ignore[call-arg]
        shutil.rmtree(place / "o", ignore_errors=True)
        words = ["score", "--model", "m", "--forget", "f.jsonl", "--retain", "r.jsonl", "--out", "o"]
        if not scored:
            scored = _score(words, good, place)
        yield Case(words, getattr(damage, "note", damage.__name__), lambda ended, scored=scored: _why(place, good, scored))
        number += 1


def _score(words: list[str], good: Path, place: Path) -> dict[str, Any]:
    """What the sound model scores."""
    from campaign.bounded import run

    whole = [*words[:-1], "whole"]
    whole[2] = "made/model"
    if run(whole, place).kind != "accepted":
        raise RuntimeError("the sound model cannot be scored")
    found: dict[str, Any] = json.loads((place / "whole" / "result.json").read_text())["scores"]
    return found


def _why(place: Path, good: Path, scored: dict[str, Any]) -> str:
    """Whether the scores are the sound model's, or the weights are others of the same shapes, all finite."""
    if (place / "PWNED").exists() or list(place.rglob("evil.pyc")):
        return ""
    found = json.loads((place / "o" / "result.json").read_text())["scores"]
    if found == scored:
        return "the scores are the sound model's: what was damaged decides nothing"
    if _tensors(place / "m") is not None and _tensors(place / "m") == _tensors(good):
        same = (place / "m" / "model.safetensors").read_bytes() == (good / "model.safetensors").read_bytes()
        if not same:
            return "other weights of the same names and shapes, all finite"
        changed = [
            name for name in ("config.json", "tokenizer.json", "tokenizer_config.json") if not _equal(place / "m" / name, good / name)
        ]
        return f"another {' and '.join(changed)} with which the whole of the weights fits" if changed else ""
    return ""


def _equal(one: Path, other: Path) -> bool:
    return one.exists() == other.exists() and (not one.exists() or one.read_bytes() == other.read_bytes())


def _tensors(folder: Path) -> dict[str, Any] | None:
    """Names and shapes of the weights; None where some are not finite or cannot be read."""
    import torch
    from safetensors.torch import load_file

    try:
        found = load_file(folder / "model.safetensors")
    except Exception:
        return None
    return {n: t.shape for n, t in found.items()} if all(torch.isfinite(t.float()).all() for t in found.values()) else None


def _noted(damage: Callable[..., None], note: str) -> Any:
    damage.note = note  # type: ignore[attr-defined]
    return damage


def _weights(good: Path, place: Path) -> Iterator[Damage]:
    """Weights that are not finite, missing, linked, of the wrong kind, or whose header lies."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(good / "model.safetensors")
    name = next(iter(tensors))

    def filled(number: float) -> Damage:
        def damage(folder: Path) -> None:
            changed = dict(tensors)
            changed[name] = tensors[name].clone()
            changed[name].view(-1)[0] = number
            save_file(changed, folder / "model.safetensors", {"format": "pt"})

        return _noted(damage, f"a weight that is {number}")  # type: ignore[no-any-return]

    def kept(changed: dict[str, Any], note: str) -> Damage:
        return _noted(lambda folder: save_file(changed, folder / "model.safetensors", {"format": "pt"}), note)  # type: ignore[no-any-return]

    def instead(note: str, make: Callable[[Path], Any]) -> Damage:
        def damage(folder: Path) -> None:
            (folder / "model.safetensors").unlink()
            make(folder)

        return _noted(damage, note)  # type: ignore[no-any-return]

    yield from (filled(number) for number in (float("nan"), float("inf"), -float("inf"), 3e38))
    yield kept({n: t for n, t in tensors.items() if n != name}, "a weight is missing")
    yield kept({**tensors, "extra.weight": torch.ones(3)}, "a weight too many")
    yield kept({**tensors, name: tensors[name][:-1].contiguous()}, "a weight of another shape")
    yield kept({**tensors, name: tensors[name].to(torch.int32)}, "a weight of whole numbers")
    yield kept({n: t.to(torch.bfloat16) for n, t in tensors.items()}, "bfloat16")
    yield instead("no weights", lambda folder: None)
    yield instead("a pickle for weights", lambda folder: (folder / "pytorch_model.bin").write_bytes(_PICKLE))
    yield instead("weights called otherwise", lambda folder: save_file(tensors, folder / "consolidated.safetensors"))
    yield instead("an adapter alone", lambda folder: save_file({"a": torch.ones(2)}, folder / "adapter_model.safetensors"))
    yield instead("a link to zeros without end", lambda folder: (folder / "model.safetensors").symlink_to("/dev/zero"))
    yield instead("a link to nothing", lambda folder: (folder / "model.safetensors").symlink_to("nowhere"))
    yield instead("a pipe", lambda folder: os.mkfifo(folder / "model.safetensors"))
    content = (good / "model.safetensors").read_bytes()
    for length in (2**63, 2**64 - 1, 0, 1, 10**8):
        changed = struct.pack("<Q", length) + content[8:]
        yield _noted(lambda folder, changed=changed: (folder / "model.safetensors").write_bytes(changed), f"a header of {length} bytes")


def _indexed(good: Path) -> Iterator[Damage]:
    """An index of shards that names files outside, none, or is of the wrong form."""

    def damage(folder: Path, text: str) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        (folder / "model.safetensors.index.json").write_text(text)

    from safetensors.torch import load_file

    names = list(load_file(good / "model.safetensors"))
    texts = [
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, to)})
        for to in ("../outside.safetensors", "/etc/passwd", "gone.safetensors")
    ]
    for text in [*texts, "{}", "[]", '{"weight_map":3}', '{"weight_map":{}}', "not json", ""]:
        yield _noted(lambda folder, text=text: damage(folder, text), f"an index {text[:60]}")


def _configured(changes: dict[str, Any]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        (folder / "evil.py").write_text("open('PWNED', 'w')\n")

    return _noted(damage, f"config with {json.dumps(changes)[:100]}")  # type: ignore[no-any-return]


def _tokenized(key: str, value: Any) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))

    return _noted(damage, f"tokenizer with {key} {json.dumps(value)[:80]}")  # type: ignore[no-any-return]


def _truncated(folder: Path, rng: random.Random) -> None:
    file = rng.choice([p for p in sorted(folder.iterdir()) if p.is_file()])
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])


def _renamed(folder: Path, rng: random.Random) -> None:
    file = rng.choice([p for p in sorted(folder.iterdir()) if p.is_file()])
    file.rename(folder / rng.choice(["x", "model.bin", "config.json", "tokenizer.json"]))


def _configured_at_random(folder: Path, rng: random.Random) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config[rng.choice(list(config))] = rng.choice(VALUES)
    file.write_text(json.dumps(config))


def _damaged(name: str) -> Any:
    def damage(folder: Path, rng: random.Random) -> None:
        if (folder / name).exists():
            (folder / name).write_bytes(damaged((folder / name).read_bytes(), rng))

    return _noted(damage, f"a damaged {name}")
