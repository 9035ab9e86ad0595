"""In which type of numbers, on which base and where a model is loaded."""

import json
import types

import pytest
import torch
from safetensors.torch import load_file

from architectures import build, learner
from sluicegate.audit.adapter import add_adapter
from sluicegate.audit.attack import Attack
from sluicegate.audit.stage import Relearn
from sluicegate.engine import folder as files
from sluicegate.engine import models
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import Meter
from sluicegate.engine.models import is_quantised, load, load_once, model_digest, save, settled_dtype
from sluicegate.engine.scoring import score
from sluicegate.errors import UserError
from sluicegate.tasks.stage import Score
from sluicegate.unlearning.distill import distill
from sluicegate.unlearning.stage import Unlearn
from sluicegate.values.schedule import Schedule


@pytest.fixture
def folder(tokenizer, tmp_path):
    save(build("llama"), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def half(tokenizer, tmp_path):
    save(build("llama").to(torch.bfloat16), tokenizer, tmp_path / "half")
    return tmp_path / "half"


def adapter_for(folder, place, targets=("q_proj",), named=None):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(load(str(folder))[0], LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False))
    wrapped.peft_config["default"].base_model_name_or_path = str(named or folder)
    wrapped.save_pretrained(place)
    return place


# ------------------------------------------------------------------------------------------------------------- dtype


@pytest.mark.parametrize("dtype", models.DTYPES)
def test_a_model_is_loaded_and_saved_in_the_type_that_is_asked_for(folder, dtype, tmp_path, tokenizer):
    wanted = getattr(torch, dtype)
    model, _ = load(str(folder), dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {wanted}
    own = load_file(folder / "model.safetensors")
    assert torch.equal(model.lm_head.weight, own["lm_head.weight"].to(wanted))
    save(model, tokenizer, tmp_path / "saved")
    assert {value.dtype for value in load_file(tmp_path / "saved" / "model.safetensors").values()} == {wanted}
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == dtype
    assert {p.dtype for p in load(f"fresh:{folder}", dtype=dtype)[0].parameters()} == {wanted}


def test_auto_is_float32_on_a_cpu_and_what_was_saved_elsewhere(folder, half, monkeypatch):
    assert load(str(half))[0].dtype == torch.float32
    assert load_once(str(half))[0].dtype == torch.float32
    assert load_once(str(half), dtype="bfloat16")[0].dtype == torch.bfloat16
    stage = Score(model=str(half))
    assert stage.resolved() == stage
    monkeypatch.setattr(models, "device", lambda: torch.device("meta"))
    assert stage.resolved().dtype == "bfloat16"
    assert stage.resolved().resolved().dtype == "bfloat16"
    assert [settled_dtype(str(place), "auto") for place in (half, folder)] == ["bfloat16", "auto"]
    assert settled_dtype(str(half), "float32") == "float32"
    assert settled_dtype(f"fresh:{half}", "auto") == "auto"


def test_two_types_are_two_runs_and_the_default_is_the_run_of_before(half):
    from sluicegate.execution.execute import identity

    plain, named, placed = (Score(model=str(half), **how) for how in ({}, {"dtype": "bfloat16"}, {"device_map": "cpu"}))
    assert identity(plain)[0] != identity(named)[0]
    assert identity(plain)[0] == identity(placed)[0]  # where it lies is no part of what it is
    assert not {"dtype", "base", "system", "device_map"} & set(plain.config())
    assert placed.config()["device_map"] == "cpu"


def test_what_a_device_cannot_compute_is_said_in_a_line(folder, monkeypatch):
    def refuse(*_, dtype=None, **__):
        raise RuntimeError("no kernel for this\nat all")

    with pytest.raises(UserError, match="dtype is 'float8'; expected auto, float32, bfloat16, float16"):
        load(str(folder), dtype="float8")
    monkeypatch.setattr(torch, "ones", refuse)
    with pytest.raises(UserError, match=r"this device \(cpu\) does not compute in bfloat16: no kernel for this.* --dtype float32\.$"):
        load(str(folder), dtype="bfloat16")


def test_what_float16_has_no_numbers_for_is_not_called_damaged(tokenizer, tmp_path):
    model = build("llama")
    model.model.norm.weight.data[:] = 1e5
    save(model, tokenizer, tmp_path / "large")
    load(str(tmp_path / "large"), dtype="bfloat16")
    with pytest.raises(UserError, match=r"not finite, in model\.norm\.weight.*end at 65504: try --dtype float32"):
        load(str(tmp_path / "large"), dtype="float16")


def test_a_fresh_student_has_its_teachers_type(half, split, tokenizer):
    teacher, _ = load(str(half), dtype="bfloat16")
    done = distill(teacher, tokenizer, split.unlabelled[:8], Schedule(steps=1, lr=1e-3, batch=4))
    assert {p.dtype for p in done.student.parameters()} == {torch.bfloat16}


# -------------------------------------------------------------------------------------------------------------- base


def test_an_adapter_goes_on_the_base_that_is_named(folder, tmp_path):
    place = adapter_for(folder, tmp_path / "adapter")
    wanted = load(str(place))[0].state_dict()
    digest = model_digest(str(place))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="Name the base: --base FOLDER"):
        load(str(place))
    model, _ = load(str(place), base=str(moved))
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    assert model_digest(str(place), str(moved)) == digest
    from sluicegate.execution.execute import identity

    parents = identity(Score(model=str(place), base=str(moved)))[1]
    assert parents["model"] == digest
    assert parents["base"] == model_digest(str(moved))


def test_another_base_is_refused_by_name(folder, tokenizer, tmp_path):
    place = adapter_for(folder, tmp_path / "adapter")
    save(build("llama", seed=1), tokenizer, tmp_path / "other")
    with pytest.raises(UserError, match=r"holds an adapter for another base: '.*/model', and not '.*/other'"):
        load(str(place), base=str(tmp_path / "other"))
    save(build("qwen2"), tokenizer, tmp_path / "equal")  # the same shape, and nobody can know
    save(build("phi3"), tokenizer, tmp_path / "unlike")
    folder.rename(tmp_path / "moved")
    load(str(place), base=str(tmp_path / "equal"))
    with pytest.raises(UserError, match=r"does not fit '.*/unlike': .*Is it for another base \(.*/model\)\?") as caught:
        load(str(place), base=str(tmp_path / "unlike"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"its base '.*adapter' is no model with weights here"):
        load(str(place), base=str(place))
    with pytest.raises(UserError, match=r"holds whole weights\. Leave --base out"):
        load(str(tmp_path / "other"), base=str(tmp_path / "equal"))


def test_an_adapter_of_other_shapes_is_refused(folder, tokenizer, tmp_path):
    place = adapter_for(folder, tmp_path / "adapter", named="nobody/knows")
    save(learner(), tokenizer, tmp_path / "wide")
    load(str(place), base=str(folder))  # whether that is nobody/knows, nobody knows
    with pytest.raises(UserError, match=r"does not fit '.*/wide': .*Is it for another base \(nobody/knows\)\?"):
        load(str(place), base=str(tmp_path / "wide"))
    with pytest.raises(UserError, match="for another base: 'nobody/knows', and not 'some/body'"):
        models._merged(str(place), build("llama"), place, "some/body")


def test_an_adapter_on_the_hub_is_found_with_its_base(folder, tmp_path, monkeypatch):
    place = adapter_for(folder, tmp_path / "adapter")

    def cached_file(name, file, **_):
        return str(place / file) if name == "somebody/adapter" and (place / file).exists() else None

    monkeypatch.setattr(models, "cached_file", cached_file)
    wanted = load(str(place))[0].state_dict()
    found, _ = load("somebody/adapter")
    assert all(torch.equal(value, wanted[name]) for name, value in found.state_dict().items())


# --------------------------------------------------------------------------------------------------------- quantised


@pytest.fixture
def packed(folder):
    """A folder that says it is packed by bitsandbytes."""
    path = folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    return folder


def test_packed_weights_whose_library_is_missing_name_it(packed):
    with pytest.raises(UserError, match=r"is quantised \(bitsandbytes\), which needs: pip install bitsandbytes\. Or hand in"):
        load(str(packed))


def test_packed_weights_on_the_hub_are_refused_alike(monkeypatch):
    config = types.SimpleNamespace(to_dict=lambda: {"quantization_config": {"quant_method": "hqq"}}, hidden_size=8)
    config.get_text_config = lambda: config
    monkeypatch.setattr(models, "cached_file", lambda *_, **__: None)
    monkeypatch.setattr(models.AutoConfig, "from_pretrained", lambda *_, **__: config)
    with pytest.raises(UserError, match=r"model 'some/body' is quantised \(hqq\); read are bitsandbytes, gptq, awq"):
        models.read_config("some/body")


def test_packed_weights_are_loaded_where_they_are_to_be_and_scored_or_attacked_alone(packed, monkeypatch, tmp_path):
    asked = {}

    def from_pretrained(place, **how):
        asked.update(how)
        raise ValueError("stop here")

    monkeypatch.setattr(files, "find_spec", lambda name: name)
    assert is_quantised(str(packed))
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(UserError, match="stop here"):
        load(str(packed), dtype="bfloat16")
    assert asked["device_map"] == {"": torch.device("cpu")}
    assert (asked["dtype"], asked["ignore_mismatched_sizes"]) == (torch.bfloat16, False)
    rows = {"forget": "task:arithmetic/forget", "retain": "task:arithmetic/retain"}
    Score(model=str(packed), **rows).resolved()
    Relearn(model=str(packed), **rows, attack=Attack(lora_rank=4)).resolved()
    for attack in (Attack(), Attack(lora_rank=4, round_bits=4)):
        with pytest.raises(UserError, match=r"relearn needs float weights.* is quantised: score, or attack with --lora-rank, unrounded"):
            Relearn(model=str(packed), **rows, attack=attack).resolved()
    with pytest.raises(UserError, match=r"unlearn needs float weights, .* is quantised: score"):
        Unlearn(model=str(packed), **rows).resolved()


def test_an_adapter_is_not_merged_into_packed_weights(packed, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: name)
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(packed), "peft_type": "LORA"}))
    monkeypatch.setattr(models, "load_tokenizer", lambda *_: None)
    with pytest.raises(UserError, match="is quantised, and nothing is merged into that"):
        load(str(place))


# -------------------------------------------------------------------------------------------------------- device map


@pytest.mark.parametrize(
    "where",
    [
        "cpu",
        "auto",
        {"": "cpu"},
        {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "disk", "model.rotary_emb": "cpu"},
    ],
)
def test_scores_are_the_same_wherever_the_model_lies(folder, mixed_items, where):
    rows = encode(load(str(folder))[1], mixed_items)
    wanted = score(load(str(folder))[0], rows)
    model, _ = load(str(folder), device_map=where)
    if isinstance(where, dict) and len(where) > 1:
        assert model.model.layers[0].mlp.up_proj.weight.is_meta
    found = score(model, rows)
    assert torch.equal(found.loss, wanted.loss)
    assert torch.equal(found.exact, wanted.exact)


def test_a_batch_of_another_device_goes_where_the_model_is(folder, mixed_items):
    model, _ = load(str(folder), device_map="cpu")
    assert model._hf_hook.io_same_device
    plain, _ = load(str(folder))
    assert not hasattr(plain, "_hf_hook")


class Packed(torch.nn.Linear):
    """A linear layer of four bits: two weights in a byte."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = torch.nn.Parameter(torch.zeros(linear.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)


class Grouped(torch.nn.Module):
    """A linear layer as GPTQ packs it: no `weight` at all."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))


@pytest.mark.parametrize("kind", [Packed, Grouped])
def test_packed_layers_count_with_all_their_weights_and_get_an_adapter(kind, monkeypatch):
    import peft

    model = build("llama")
    model.config.num_experts_per_tok = None
    wanted, asked = Meter(model)._per_token, {}
    for layer in model.model.layers:
        layer.mlp.up_proj, layer.self_attn.q_proj = kind(layer.mlp.up_proj), kind(layer.self_attn.q_proj)
    assert Meter(model)._per_token == wanted
    monkeypatch.setattr(peft, "inject_adapter_in_model", lambda config, holder: asked.update(config=config, holder=holder))
    model.is_quantized = True
    add_adapter(model, 2, seed=0)
    assert asked["holder"] is model  # where PEFT looks for how it is packed
    names = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Grouped)}
    assert asked["config"].target_modules == names - {"lm_head"}
