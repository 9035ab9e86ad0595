"""A slice gives what the whole model gives, at less work, and for models it does not know by running all of them."""

import pytest
import torch
from torch import nn

from architectures import CONFIGS, build
from sluicegate.errors import UserError
from sluicegate.steering.parts import Slice
from sluicegate.steering.vector import SteeringSet, module_of

IDS = torch.tensor([2, 9, 11, 30, 7, 5])
STEM = {"gpt2": "transformer.h", "neox": "gpt_neox.layers"}


def rows(k=3, width=32):
    return torch.randn(k, width, generator=torch.Generator().manual_seed(0))


def stem(name):
    return STEM.get(name, "model.layers")


def whole(model, values, module, tokens="not_first"):
    with torch.no_grad(), SteeringSet(values, module, tokens).rows(range(len(values)))(model):
        return model(input_ids=IDS.expand(len(values), -1), use_cache=False).logits


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("place", ["0", "1", "1.mlp"])
def test_it_gives_what_the_whole_model_gives(name, place):
    model, source = build(name).eval(), f"{stem(name)}.{place}"
    part = Slice(model, IDS, source=source)
    assert part.cached
    assert torch.allclose(part.logits(rows()), whole(model, rows(), source), atol=1e-5)
    assert torch.allclose(part.logits(rows(), 2), whole(model, rows(), source)[:, -2:], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox"])
def test_only_the_layers_between_source_and_target_run(name):
    model = build(name).eval()
    part = Slice(model, IDS, source=f"{stem(name)}.0", target=f"{stem(name)}.1.mlp")
    ran = []
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: ran.append(path))
    found = part.target(rows())
    assert found.shape == (3, 6, 32)
    layers = [path.removeprefix(f"{stem(name)}.") for path in ran if path.startswith(stem(name))]
    assert not [path for path in layers if path.startswith("0.")]
    assert [path for path in layers if path.endswith("mlp")] == ["1.mlp"]


def test_gradients_reach_the_vectors_and_no_weight():
    model = build("llama").eval()
    part = Slice(model, IDS, source="model.layers.0")
    values = rows().requires_grad_()
    (slope,) = torch.autograd.grad(part.logits(values, 1)[:, 0, 0].sum(), values)
    step = 1e-2 * slope / slope.norm()
    with torch.no_grad():
        ahead, behind = (part.logits(rows() + s * step, 1)[:, 0, 0].double().sum() for s in (1, -1))
    assert float(ahead - behind) == pytest.approx(2e-2 * float(slope.norm()), rel=0.02)
    assert all(p.grad is None for p in model.parameters())


def test_the_model_is_left_as_it_was():
    model = build("llama").eval()
    before = model(input_ids=IDS[None]).logits
    Slice(model, IDS, source="model.layers.0", target="model.layers.1").target(rows())
    assert torch.equal(model(input_ids=IDS[None]).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__ for module in model.modules())


class Skipping(nn.Module):
    """Wraps a model so that a layer's input is used again further on: what is before the source may not be skipped."""

    def __init__(self, model):
        super().__init__()
        self.config, self.layers = model.config, nn.ModuleList([nn.Linear(32, 32) for _ in range(3)])
        self.embed, self.head = model.model.embed_tokens, model.lm_head

    def forward(self, input_ids, use_cache=False):
        first = self.embed(input_ids)
        hidden = self.layers[0](first)
        hidden = self.layers[1](hidden + first) + hidden
        return type("Answer", (), {"logits": self.head(self.layers[2](hidden))})


def test_a_model_of_another_kind_is_run_whole():
    model = Skipping(build("llama")).eval()
    part = Slice(model, IDS, source="layers.1")
    assert not part.cached
    assert torch.allclose(part.logits(rows()), whole(model, rows(), "layers.1"), atol=1e-5)


def test_what_does_not_fit_is_refused():
    model = build("llama").eval()
    with pytest.raises(UserError, match=r"Nearest: .*model\.layers\.1"):
        Slice(model, IDS, source="model.layers.7")
    with pytest.raises(UserError, match=r"expected \[b, 32\]"):
        Slice(model, IDS, source="model.layers.0").logits(torch.zeros(2, 16))
    with pytest.raises(UserError, match="65 tokens, and this model has 64"):
        Slice(model, torch.ones(65, dtype=torch.long), source="model.layers.0")
    with pytest.raises(UserError, match="without a target"):
        Slice(model, IDS, source="model.layers.0").target(rows())
    with pytest.raises(UserError, match="does not lie behind"):
        Slice(model, IDS, source="model.layers.1", target="model.layers.0")
    assert module_of(model, "model.layers.1") is model.model.layers[1]
