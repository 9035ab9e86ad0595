"""What is wrong with a model's folder is said in one line, and what is loaded is what its files hold."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPTNeoConfig

from architectures import build
from engine_mutated import mutate
from sluicegate.engine import models
from sluicegate.engine.encoding import encode
from sluicegate.engine.models import config_width, fresh, load, load_tokenizer, model_digest, save
from sluicegate.engine.scoring import score
from sluicegate.errors import UserError
from sluicegate.values.items import Item

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tokenizer, tmp_path):
    save(build("llama"), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change(folder, **weights):
    """Put other weights into the folder's file; those that are None go."""
    own = load_file(folder / WEIGHTS) | {name.replace("__", "."): value for name, value in weights.items()}
    save_file({name: value for name, value in own.items() if value is not None}, folder / WEIGHTS, {"format": "pt"})


def refusal(folder):
    """What is said of a folder that is refused, else nothing."""
    try:
        load(str(folder))
    except UserError as error:
        return str(error)
    return ""


def divide(folder, place):
    """The folder's weights in one shard at `place`, with an index."""
    names = list(load_file(folder / WEIGHTS))
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / WEIGHTS).rename(folder / place)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, place)}))


# ------------------------------------------------------------------------------------------ no random model


@pytest.mark.parametrize("name", ["consolidated.safetensors", "model-00001-of-00004.safetensors", "model.gguf"])
def test_weights_under_a_name_that_is_not_read_are_no_random_model(folder, name):
    (folder / WEIGHTS).rename(folder / name)
    with pytest.raises(UserError, match=rf"holds no weights that are read: expected model.safetensors.*found {name}\."):
        load(str(folder))


def test_a_model_is_drawn_where_it_ships_so_or_where_that_is_asked_for(folder, bits):
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"found none\..*random weights, give: fresh:"):
        load(str(folder))
    first, again, other = (bits.weights(load(f"fresh:{folder}", seed=seed)[0]) for seed in (1, 1, 2))
    assert bits.same(first, again)
    assert not bits.same(first, other)
    assert model_digest(f"fresh:{folder}") != model_digest(str(folder))
    assert config_width(f"fresh:{folder}") == 32
    copied = shutil.copytree(models.packaged()["arithmetic-tiny"], folder.parent / "copied")
    with pytest.raises(UserError, match="holds no weights"):
        load(str(copied))  # what ships is known by where it lies


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 1}, r"holds 9 weights that its config.json has no place for, model\.layers\.1\.\S+ for one"),
        ({"num_hidden_layers": 3}, r"lacks 9 of the model's weights, model\.layers\.2\.\S+ for one"),
        ({"vocab_size": 100}, r"2 weights .* another shape .* lm_head\.weight for one: \[132, 32\] in the file, \[100, 32\] by config"),
        ({"hidden_size": 2**40}, r"asks for a larger model than its files hold"),
        ({"num_hidden_layers": 9_999}, r"asks for a larger model than its files hold"),
        ({"num_hidden_layers": 10**9}, r"config\.json' sets num_hidden_layers to 1e\+09; at most 10000 are built"),
        ({"num_attention_heads": "4"}, r"could not load the model"),
        ({"rope_theta": "x", "rope_parameters": None}, r"could not load the model"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"is quantised \(gptq\), which needs: pip install optimum gptqmodel\. Or",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, r"is quantised \(fp8\); read are bitsandbytes, gptq, awq\. Hand in"),
        ({"quantization_config": 3}, r"is quantised \(3\); read are"),
        ({"transformers_weights": "other.safetensors"}, r"sets transformers_weights"),
        ({"_attn_implementation": "kernels-community/any"}, r"code from the hub, which is never run"),
        ({"attention_dropout": 7.0}, r"could not load the model.*dropout probability"),
    ],
)
def test_a_configuration_that_is_not_the_weights_is_refused(folder, changes, said):
    configure(folder, **changes)
    with pytest.raises(UserError, match=said) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named(folder, value):
    weight = load_file(folder / WEIGHTS)["model.norm.weight"]
    weight[3] = value
    change(folder, model__norm__weight=weight)
    with pytest.raises(UserError, match=r"weights that are not finite, in model\.norm\.weight for one"):
        load(str(folder))


def test_whole_numbers_as_weights_are_quantised(folder):
    change(folder, model__norm__weight=torch.ones(32, dtype=torch.int8))
    with pytest.raises(UserError, match=r"holds model\.norm\.weight as I8, which is quantised"):
        load(str(folder))


def test_a_mask_that_an_earlier_version_saved_is_no_weight(tokenizer, tmp_path):
    save(
        fresh(GPTNeoConfig(vocab_size=132, hidden_size=32, num_layers=1, attention_types=[[["global"], 1]], num_heads=4), 0),
        tokenizer,
        tmp_path / "model",
    )
    change(tmp_path / "model", transformer__h__0__attn__attention__bias=torch.ones(1, 1, 8, 8, dtype=torch.uint8))
    load(str(tmp_path / "model"))


# ------------------------------------------------------------------------------------------ adapters


@pytest.fixture
def adapter(folder, tmp_path):
    """An adapter on one matrix of the model in `folder`, and the change that it makes to it."""
    from peft import LoraConfig, get_peft_model

    base, _ = load(str(folder))
    wrapped = get_peft_model(base, LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"]))
    torch.manual_seed(0)
    own = {name: p for name, p in wrapped.named_parameters() if "lora_" in name}
    for p in own.values():
        torch.nn.init.normal_(p)
    wrapped.peft_config["default"].base_model_name_or_path = str(folder)
    wrapped.save_pretrained(tmp_path / "adapter")
    a, b = (next(p for name, p in own.items() if f"layers.1.self_attn.q_proj.lora_{side}" in name) for side in "AB")
    return tmp_path / "adapter", 3 * b.detach() @ a.detach()


@pytest.mark.parametrize("together", [False, True])
def test_an_adapter_is_merged_into_its_base_and_saved_whole(folder, adapter, tokenizer, capsys, together):
    place, delta = adapter
    before = load_file(folder / WEIGHTS)["model.layers.1.self_attn.q_proj.weight"]
    if together:
        for path in place.glob("adapter_*"):
            shutil.copy(path, folder)
        place = folder
    random = torch.get_rng_state()
    model, _ = load(str(place))
    assert torch.equal(torch.get_rng_state(), random)
    assert capsys.readouterr().err == f"note: {place} holds an adapter; it was merged into its base {folder} in memory\n"
    torch.testing.assert_close(model.model.layers[1].self_attn.q_proj.weight.detach(), before + delta)
    save(model, tokenizer, folder.parent / "saved")
    assert sorted(path.name for path in (folder.parent / "saved").glob("*.safetensors")) == [WEIGHTS]
    again, _ = load(str(folder.parent / "saved"))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_an_adapters_base_belongs_to_its_content(folder, adapter):
    place, _ = adapter
    first = model_digest(str(place))
    change(folder, model__norm__weight=torch.full((32,), 2.0))
    assert model_digest(str(place)) != first


def test_an_adapter_without_its_base_is_refused_by_name(folder, adapter):
    place, _ = adapter
    folder.rename(folder.parent / "moved")
    for kept in (False, True):  # with a config.json of its own it was a random model
        if kept:
            shutil.copy(folder.parent / "moved" / "config.json", place)
        with pytest.raises(
            UserError, match=r"holds an adapter \(adapter_model\.safetensors\).*its base '.*model' is no model with weights"
        ):
            load(str(place))


def test_half_an_adapter_is_refused(adapter):
    place, _ = adapter
    own = load_file(place / "adapter_model.safetensors")
    save_file(dict(list(own.items())[1:]), place / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: it does not fit adapter_config\.json"):
        load(str(place))


# ------------------------------------------------------------------------------------------ what is loaded is hashed


def test_shards_below_the_folder_are_hashed(folder):
    divide(folder, "below/shard.safetensors")
    load(str(folder))
    first, kept = model_digest(str(folder)), models.load_once(str(folder))[0]
    weights = load_file(folder / "below/shard.safetensors")
    save_file({name: 0 * value for name, value in weights.items()}, folder / "below/shard.safetensors", {"format": "pt"})
    assert model_digest(str(folder)) != first
    assert models.load_once(str(folder))[0] is not kept
    assert not models.load_once(str(folder))[0].lm_head.weight.any()


def test_chat_templates_below_the_folder_are_hashed(folder):
    first = model_digest(str(folder))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "default.jinja").write_text("{{ messages }}")
    assert model_digest(str(folder)) != first


def test_the_digest_of_a_plain_folder_is_what_it_was(folder):
    sha = hashlib.sha256()
    (folder / "README.md").write_text("not content")
    for path in sorted(folder.iterdir()):
        if path.suffix != ".md":
            sha.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    assert model_digest(str(folder)) == sha.hexdigest()


@pytest.mark.parametrize("place", ["../outside.safetensors", "{}/outside.safetensors", "weights.bin"])
def test_an_index_that_leads_out_of_the_folder_is_refused(folder, place):
    divide(folder, place.format(folder.parent))
    for read in (load, model_digest):
        with pytest.raises(UserError, match=r"index\.json' names '.*'; expected a \.safetensors file inside the folder"):
            read(str(folder))


def test_a_link_to_a_file_elsewhere_is_followed_and_hashed(folder):
    first = model_digest(str(folder))
    (folder / WEIGHTS).rename(folder.parent / "blob")
    (folder / WEIGHTS).symlink_to("../blob")  # as in the hub's cache
    load(str(folder))
    assert model_digest(str(folder)) == first
    (folder.parent / "blob").write_bytes(b"")
    assert model_digest(str(folder)) != first


# ------------------------------------------------------------------------------------------ code and hostile files


@pytest.mark.parametrize(("file", "named"), [("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")])
def test_code_of_a_folder_is_refused_without_a_question(folder, tmp_path, monkeypatch, file, named):
    loot = tmp_path / "loot"
    settings = json.loads((folder / file).read_text())
    settings |= {
        "model_type": "burglar",
        "tokenizer_class": "Burglar",
        "auto_map": {named: ["burglar.It", None], "AutoConfig": "burglar.It"},
    }
    (folder / file).write_text(json.dumps(settings))
    (folder / "burglar.py").write_text(f"open({str(loot)!r}, 'w')")
    answers = io.StringIO("y\n" * 9)
    monkeypatch.setattr(sys, "stdin", answers)
    said = refusal(folder)
    assert "\n" not in said
    assert "needs code of its own" in said or file != "config.json"
    assert not loot.exists()
    assert answers.tell() == 0, "it asked"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS, "generation_config.json"])
@pytest.mark.parametrize("kind", ["device", "pipe", "nowhere"])
def test_what_is_no_ordinary_file_is_named_and_not_read(folder, name, kind):
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero" if kind == "device" else "nowhere")
    for read in (model_digest, load):
        with pytest.raises(UserError, match=name if kind != "nowhere" or name != WEIGHTS else "no weights|no file"):
            read(str(folder))


def test_a_text_file_of_gigabytes_is_not_read(folder):
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(2**32)  # takes no room on the disk
    with pytest.raises(UserError, match=r"tokenizer\.json: 4,294,967,296 bytes; at most 268,435,456 are read"):
        load(str(folder))


def test_a_token_without_an_embedding_is_named_where_a_row_holds_it(folder, tokenizer):
    bigger = load_tokenizer("arithmetic-tiny")
    bigger.add_tokens(["<new>", "<other>"])
    bigger.save_pretrained(folder)
    _, own = load(str(folder))
    assert len(encode(own, [Item("3 * 4 =", " 12")])) == 1  # tokens that no row holds do no harm
    with pytest.raises(UserError, match=r"row 1 .*'<new>' is token 132, and the model's embedding has 132 rows for the 134 tokens"):
        encode(own, [Item("3 * <new> 4 =", " 12")])


def test_150_folders_with_one_thing_wrong_are_refused_in_a_line_or_score_a_number(tokenizer, tmp_path):
    bases = [tmp_path / name for name in ("llama", "gpt2", "gemma2")]
    for base in bases:
        save(build(base.name), tokenizer, base)
    found = Counter()
    for number in range(150):
        spoiled = shutil.copytree(bases[number % 3], tmp_path / "spoiled")
        what = mutate(spoiled, number)
        said = refusal(spoiled)
        assert "\n" not in said, what
        if not said:
            model, own = load(str(spoiled))
            with contextlib.suppress(UserError):  # such as a token that has no embedding now
                numbers = score(model, encode(own, [Item("3 * 4 =", " 12")])).mean()
                assert all(value == value for value in numbers.values()), what
                model_digest(str(spoiled))
        found[bool(said)] += 1
        shutil.rmtree(spoiled)
    assert found[True] > 100
    assert found[False] > 10


def test_the_command_says_it_in_a_line_and_does_not_wait(folder, tmp_path):
    """The whole way, with the weights an endless device."""
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/dev/zero")
    (tmp_path / "f.jsonl").write_text('{"prompt": "3 * 4 =", "answer": " 12"}\n')
    command = [sys.executable, "-m", "sluicegate", "score", "--model", str(folder), "--forget", str(tmp_path / "f.jsonl")]
    done = subprocess.run([*command, "--out", str(tmp_path / "o")], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "is no ordinary file" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
