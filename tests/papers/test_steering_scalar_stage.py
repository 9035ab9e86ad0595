import dataclasses
import math

import numpy as np
import pytest
import torch

from architectures import build
from jsonl import write_jsonl
from sluicegate.engine.encoding import encode
from sluicegate.engine.forward import logits
from sluicegate.engine.models import load_tokenizer, save
from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext
from sluicegate.values.items import Item
from sluicegate.values.schedule import Schedule
from sluicegate_papers.steering_scalar_stage import SteeringScalar, steered
from sluicegate_papers.tasks import clusters

SHORT = SteeringScalar(rows=400, width=32, depth=3, schedule=Schedule(steps=3, batch=8, lr=6e-3))


def run(**changes):
    return dataclasses.replace(SHORT, **changes).resolved().run(RunContext())


def test_steering_adds_to_dimension_0_of_a_layers_output_in_units_of_its_root_mean_square():
    model = build("llama").eval()
    made = clusters.tokenizer()
    rows = encode(made, clusters.Clusters(0).text(3))
    rows = dataclasses.replace(rows, ids=rows.ids % 132)
    batch = rows.batch(range(3))
    layer = model.model.layers[0]
    outputs = []
    handle = layer.register_forward_hook(lambda m, a, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        plain = logits(model, batch).log_softmax(-1)
    handle.remove()
    unit = float(outputs[0].pow(2).mean().sqrt())

    def push(module, args, out):
        x = (out[0] if isinstance(out, tuple) else out).clone()
        x[..., 0] += 2 * unit
        return (x, *out[1:]) if isinstance(out, tuple) else x

    handle = layer.register_forward_hook(push)
    with torch.no_grad():
        pushed = logits(model, batch).log_softmax(-1)
    handle.remove()
    found = steered(model, "model.layers.0", rows, (-1.0, 2.0))
    mask = batch.real[..., None]
    np.testing.assert_allclose(found[2.0], ((pushed * mask).sum((0, 1)) / mask.sum()).numpy(), rtol=1e-4)
    np.testing.assert_allclose(found[0.0], ((plain * mask).sum((0, 1)) / mask.sum()).numpy(), rtol=1e-4)
    assert not np.allclose(found[-1.0], found[0.0], rtol=1e-3)
    with torch.no_grad():
        assert torch.equal(logits(model, batch).log_softmax(-1), plain)  # the hook is gone


def test_routing_and_its_absence_differ_only_in_the_gradient():
    same = [run(variant=arm, schedule=Schedule(steps=1, batch=8, lr=1e-9))["measures"] for arm in ("routed", "unrouted", "random")]
    assert same[0]["loss"] == pytest.approx(same[1]["loss"], abs=1e-6) == same[2]["loss"]
    learnt = {arm: run(variant=arm, schedule=Schedule(steps=6, batch=32, lr=6e-3))["measures"] for arm in ("routed", "unrouted", "random")}
    assert len({m["loss"] for m in learnt.values()}) == 3


def test_it_measures_what_it_declares_and_is_a_function_of_its_seed():
    first, again, other = run(), run(), run(seed=1)
    assert first == again
    assert first["measures"] != other["measures"]
    assert first["measures"].keys() == SteeringScalar.MEASURES.keys()
    assert all(math.isfinite(v) for v in first["measures"].values())
    assert first["curves"]["log p mates"]["y"][5] == 0.0  # strength 0


@pytest.mark.slow
def test_relatives_gather_on_the_routed_dimension():
    learn = Schedule(steps=300, batch=64, lr=6e-3, warmup=50, decay="cosine", weight_decay=0.1)
    routed, plain = (SteeringScalar(variant=arm, schedule=learn).resolved().run(RunContext())["measures"] for arm in ("routed", "unrouted"))
    assert routed["auroc"] > plain["auroc_dims"] + 0.2
    assert routed["steer_mates"] > routed["steer_others"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A text and a model such as a user hands in."""
    folder = tmp_path_factory.mktemp("own")
    words = ("3", "4", "5", "6", "7", "8")
    rows = [Item("", f"ann has {a} plums finds {b} now {c}") for a in words for b in words for c in words]
    write_jsonl(rows, folder / "text.jsonl")
    save(build("llama"), load_tokenizer("arithmetic-tiny"), folder / "model")
    return {"data": str(folder / "text.jsonl"), "model": str(folder / "model"), "token": "7", "mates": ("6", "8")}


def test_a_users_text_model_and_tokens(own):
    measures = run(**own, layers=(0,))["measures"]
    assert 0 <= measures["auroc"] <= 1
    assert math.isfinite(measures["loss_mates"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": ""}, "data is given without model"),
        ({"data": ""}, "model is given without data"),
        ({"mates": ()}, "name the relatives of '7'"),
        ({"mates": ("6", "7")}, "cannot be among the mates"),
        ({"mates": ("6", "81")}, "'81' does not occur in the training text"),
        ({"token": "seven"}, "'seven'"),
        ({"layers": (5,)}, "numbers from 0 to 1"),
    ],
)
def test_a_users_mistakes_are_named(own, changes, says):
    with pytest.raises(UserError, match=says):
        run(**(own | changes))


def test_a_token_of_no_cluster_is_named():
    with pytest.raises(UserError, match="'texaco' is in no cluster"):
        run(token="texaco")
