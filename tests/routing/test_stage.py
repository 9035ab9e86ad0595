import json
from pathlib import Path

import pytest
import torch

from jsonl import write_jsonl
from sluicegate.engine.encoding import encode
from sluicegate.engine.models import load, locate
from sluicegate.engine.scoring import score
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.routing.placement import load_placement
from sluicegate.routing.router import Router
from sluicegate.routing.stage import Route
from sluicegate.runs.directory import result_of
from sluicegate.runs.stage import from_config
from sluicegate.values.items import Item, Split, read
from tiny_stages import material


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def settings(own):
    labelled = {name: own[name] for name in ("model", "forget", "retain")}
    return labelled | {"verb": "route", "units": 16, "steps": 6, "batch": 8, "lr": 1e-2, "weight_decay": 0.1}


def scored(model, tokenizer, own, group):
    return score(model, encode(tokenizer, read(own[group], group))).mean()


@pytest.mark.parametrize("more", [{}, {"form": "protect"}, {"expand": True}, {"unlabelled": "also"}], ids=str)
def test_routed_saved_and_cut_as_the_library_does_it(own, settings, more, tmp_path):
    more = {name: own["unlabelled"] if value == "also" else value for name, value in more.items()}
    routed = execute(from_config(settings | more), tmp_path)
    result = result_of(routed)
    assert set(result["scores"]) == {"forget", "retain", "forget without blocks", "retain without blocks"}
    model, tokenizer = load(str(routed))
    assert scored(model, tokenizer, own, "forget") == pytest.approx(result["scores"]["forget"])
    with Router(model, load_placement(routed / "model")).ablate("forget")(model):
        assert scored(model, tokenizer, own, "forget") == pytest.approx(result["scores"]["forget without blocks"])

    ablated = execute(from_config({"verb": "ablate", "model": str(routed), "forget": own["forget"]}), tmp_path)
    found = result_of(ablated)
    assert found["scores"]["forget"] == pytest.approx(result["scores"]["forget without blocks"], abs=1e-4)
    assert found["measures"]["parameters before"] - found["measures"]["parameters after"] == 16 * 3 * 64
    assert not found["warnings"]
    assert not (ablated / "model" / "routing.json").exists()
    small, _ = load(str(ablated))
    assert sum(p.numel() for p in small.parameters()) == found["measures"]["parameters after"]


def test_what_a_block_learnt_is_gone_with_it_and_the_rest_never_saw_it(own, settings, tmp_path):
    """In the parameter form, and with every retain row computed without the block, the rest is trained by retain rows
    alone."""
    both = execute(from_config(settings | {"form": "protect", "confident": 1.0}), tmp_path)
    rest = {n: p.detach().clone() for n, p in load(str(both))[0].named_parameters()}
    start = dict(load(own["model"])[0].named_parameters())
    moved = {n for n, p in rest.items() if not torch.equal(p, start[n])}
    up = "model.layers.0.mlp.up_proj.weight"
    assert up in moved
    assert not torch.equal(rest[up][-16:], start[up][-16:])  # the forget rows did train the block
    held = execute(from_config(settings | {"form": "protect", "confident": 1.0, "labelled": 0.05}), tmp_path)
    other = dict(load(str(held))[0].named_parameters())
    assert not torch.equal(other["model.embed_tokens.weight"], rest["model.embed_tokens.weight"])  # missing labels let forget rows in


def test_several_blocks_each_removable(own, settings, tmp_path):
    rows = [Item(i.prompt, i.answer, i.fact, "one" if n % 2 else "two") for n, i in enumerate(read(own["forget"], "forget"))]
    write_jsonl(rows, tmp_path / "both.jsonl")
    routed = execute(from_config(settings | {"forget": str(tmp_path / "both.jsonl"), "blocks": ["one", "two"]}), tmp_path)
    placed = load_placement(routed / "model")
    assert placed == {"model.layers.0.mlp": {"one": (224, 240), "two": (240, 256)}}
    ablated = execute(from_config({"verb": "ablate", "model": str(routed), "blocks": ["one"]}), tmp_path)
    assert load_placement(ablated / "model") == {"model.layers.0.mlp": {"two": (224, 240)}}
    first, second = load(str(routed))[0], load(str(ablated))[0]
    router = Router(first, placed)
    batch = encode(load(str(routed))[1], read(own["retain"], "retain")).batch(range(4))
    with router.ablate("one", "two")(first):
        expected = first(batch.ids).logits
    with Router(second, load_placement(ablated / "model")).ablate("two")(second):
        assert torch.allclose(second(batch.ids).logits, expected, atol=1e-5)
    again = execute(from_config({"verb": "ablate", "model": str(ablated)}), tmp_path / "again")
    assert result_of(again)["measures"]["parameters after"] < result_of(ablated)["measures"]["parameters after"]


def test_rows_are_labelled_as_asked(own):
    rows = read(own["forget"], "forget")
    more = tuple(Item(f"{n} is", " kept") for n in range(20))
    split = Split(forget=rows, retain=more, unlabelled=rows[:2])
    named = [item.label for item in Route(labelled=0.5, confident=0.2).named(split)]
    n = len(rows)
    assert named[:n].count("forget") == round(n / 2)
    assert named[:n].count("unlabelled") == n - round(n / 2)
    assert named[n : n + 20].count("retain") == 4
    assert named[n + 20 :] == ["unlabelled"] * 2
    few = [item.label for item in Route(labelled=0.25).named(split)]
    assert all(b == "forget" for a, b in zip(few[:n], named[:n], strict=True) if a == "forget")  # fewer labels are among the more


def test_listed_tokens_alone_belong_to_the_block(own):
    model, tokenizer = load(own["model"])
    rows = encode(tokenizer, Route(confident=1.0).named(Split(forget=read(own["forget"], "forget"), retain=read(own["retain"], "retain"))))
    stage = Route(tokens="= 4", units=8)
    router = stage.router(model)
    batch = rows.batch(range(len(rows)))
    given = stage.labels(router, tokenizer, rows)(batch)
    assert given.shape == batch.ids.shape
    listed = torch.isin(batch.ids[:, 1:], torch.tensor(tokenizer.convert_tokens_to_ids(["=", "4"]))) & batch.attention[:, 1:]
    forget = torch.tensor([item.label == "forget" for item in rows.items])
    assert torch.equal(given[:, :-1] == router.labels.index("forget"), listed & forget[:, None])
    assert (given[~forget] == router.labels.index("retain")).all()
    router.remove()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labelled": 0.0}, "labelled is 0.0; it must be a number, more than 0"),
        ({"confident": 1.5}, "confident is 1.5; it must be a number, at least 0 and at most 1"),
        ({"units": -1}, "units is -1"),
        ({"blocks": []}, "there is no block"),
        ({"modules": "transformer.h.*.mlp"}, "matches no module. Nearest"),
        ({"blocks": ["a", "b"]}, "which is no block"),
        ({"tokens": "nosuchtoken"}, "nosuchtoken"),
        ({"retain": ""}, "route needs --retain"),
    ],
    ids=str,
)
def test_mistakes_are_named_and_leave_no_folder(settings, wrong, message, tmp_path):
    with pytest.raises(UserError, match=message):
        execute(from_config(settings | wrong), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_never_routed_cannot_be_cut(own, tmp_path):
    with pytest.raises(UserError, match=r"has no routing\.json"):
        execute(from_config({"verb": "ablate", "model": own["model"]}), tmp_path)
    (tmp_path / "m").mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "m" / file).write_bytes((Path(locate(own["model"])) / file).read_bytes())
    (tmp_path / "m" / "routing.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match=r"cannot be read .no 'sites' in it"):
        execute(from_config({"verb": "ablate", "model": str(tmp_path / "m")}), tmp_path / "runs")


def test_ablating_a_block_that_is_none(own, settings, tmp_path):
    routed = execute(from_config(settings), tmp_path)
    with pytest.raises(UserError, match=r"nothing was ever routed to 'forgot'\. The blocks are"):
        execute(from_config({"verb": "ablate", "model": str(routed), "blocks": ["forgot"]}), tmp_path)
