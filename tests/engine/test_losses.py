"""Losses at the positions that count, against the plain way in float64."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from sluicegate.engine import losses
from sluicegate.engine.encoding import Batch
from sluicegate.engine.losses import Outputs, packed, reduce_logits, token_losses, without_logits

WORDS = 5000
SHAPE = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "tied": ("llama", SHAPE | {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "untied": ("llama", SHAPE | {"tie_word_embeddings": False, "num_key_value_heads": 2}),
    "softcap": ("gemma2", SHAPE | {"num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 3.0}),
    "factor": ("cohere", SHAPE | {"num_key_value_heads": 1, "logit_scale": 0.3}),
    "divided": ("granite", SHAPE | {"num_key_value_heads": 1, "logits_scaling": 6.0}),
    "bias": ("phi", SHAPE | {"num_key_value_heads": 2}),
    "gpt2": ("gpt2", {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2}),
    "bloom": ("bloom", {"vocab_size": WORDS, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "mamba": ("mamba", {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
}


def model_of(kind):
    family, settings_ = KINDS[kind]
    torch.manual_seed(0)
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings_, **special)).eval()
    with torch.no_grad():  # logits of a few nats, so that a soft cap matters
        for p in model.parameters():
            p.mul_(4) if p.dim() > 1 else p.add_(0.1 * torch.randn_like(p))
    return model


def batch_of(lengths=(9, 4, 7), seed=0, first=2):
    torch.manual_seed(seed)
    ids = torch.randint(1, WORDS, (len(lengths), max(lengths)))
    attention = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Batch(ids * attention, attention, attention[:, 1:] & (torch.arange(1, max(lengths)) >= first), torch.arange(len(lengths)))


def plain(model, batch, mask):
    """The whole logits, and their cross-entropy, in float64."""
    out = model(input_ids=batch.ids, attention_mask=batch.attention.long(), use_cache=False).logits[:, :-1].double()
    return -out.log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0] * mask


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("piece", [3 * WORDS, losses.PIECE], ids=["pieces", "one"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_float64_logits(kind, piece, monkeypatch):
    monkeypatch.setattr(losses, "PIECE", piece)
    model, batch = model_of(kind), batch_of()
    found = token_losses(model, batch, "answer")
    with torch.no_grad():
        wanted = plain(copy.deepcopy(model).double(), batch, batch.answer)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-6)
    assert wanted[batch.answer].std() > 0.02
    weight = torch.linspace(-1, 2, found.numel()).view_as(found)
    mine, theirs = gradients(model, (found * weight).sum()), gradients(model, (plain(model, batch, batch.answer) * weight).sum())
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    assert losses._plain_head(model) is not None, "the whole way was taken"


@settings(max_examples=25)
@given(mask=st.lists(st.booleans(), min_size=24, max_size=24), piece=st.integers(1, 30), packs=st.booleans())
def test_any_mask_in_any_pieces_gives_the_losses_of_the_whole(mask, piece, packs):
    model, batch = model_of("untied"), batch_of()
    where = torch.tensor(mask).view(3, 8) & batch.real
    with pytest.MonkeyPatch.context() as patch, packed(model, packs):
        patch.setattr(losses, "PIECE", piece * WORDS)
        found = token_losses(model, batch, where)
        assert len(Outputs(model, batch, where).pieces) == max(-(-int(where.sum()) // piece), 1)
        told = reduce_logits(model, batch, where, lambda z, y: torch.stack([z.argmax(-1), y], 1))
    wanted = plain(model, batch, where)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    mine, theirs = gradients(model, found.sum()), gradients(model, wanted.sum())
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, atol=2e-5, rtol=1e-4)
    first = model(input_ids=batch.ids, attention_mask=batch.attention.long()).logits[:, :-1].argmax(-1)
    assert torch.equal(told, torch.stack([first[where], batch.ids[:, 1:][where]], 1))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.seen = max(self.seen, out.numel())
        return out


def test_no_tensor_is_larger_than_a_piece_or_the_weights(monkeypatch):
    model, batch = model_of("softcap"), batch_of((40, 40, 40, 30))
    piece = 20 * WORDS
    monkeypatch.setattr(losses, "PIECE", piece)
    with Largest() as largest:
        token_losses(model, batch, "real").sum().backward()
    assert largest.seen == piece > WORDS * 16
    with Largest() as largest:
        reduce_logits(model, batch, "real", lambda z, y: z.amax(-1, keepdim=True))
    assert largest.seen <= piece
    with Largest() as largest, without_logits(model):
        model(input_ids=batch.ids)
    assert largest.seen <= WORDS * 16  # the weights, transposed


def test_an_output_layer_that_is_hooked_or_adapted_keeps_its_say(monkeypatch):
    monkeypatch.setattr(losses, "PIECE", 3 * WORDS)
    batch = batch_of()
    hooked, adapted, masked = model_of("untied"), model_of("untied"), model_of("untied")
    hooked.lm_head.register_forward_hook(lambda module, args, out: out * 0.5)
    torch.nn.utils.parametrizations.weight_norm(adapted.lm_head)
    own = type(masked).forward

    class Forbids(type(masked)):
        def forward(self, *args, **kwargs):
            out = own(self, *args, **kwargs)
            out.logits = out.logits.index_fill(-1, torch.tensor([1, 2]), -50.0)
            return out

    masked.__class__ = Forbids
    for model in (hooked, adapted, masked):
        found, wanted = token_losses(model, batch, "real"), plain(model, batch, batch.real)
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
        mine, theirs = gradients(model, found.sum()), gradients(model, wanted.sum())
        assert mine.keys() == theirs.keys()
        for name, gradient in theirs.items():
            torch.testing.assert_close(mine[name], gradient, atol=2e-5, rtol=1e-4)
    assert "forward" not in vars(adapted.lm_head)


def test_bfloat16_gives_float32_losses_and_keeps_what_is_done_to_logits(monkeypatch):
    monkeypatch.setattr(losses, "PIECE", 3 * WORDS)
    batch = batch_of()
    for kind in ("softcap", "factor", "divided", "tied"):
        model = model_of(kind).to(torch.bfloat16)
        found = token_losses(model, batch, "answer")
        assert found.dtype == torch.float32
        assert model not in losses._WHOLE, kind
        torch.testing.assert_close(found.double(), plain(model, batch, batch.answer), atol=0.05, rtol=0.01)
        found.sum().backward()


def test_rows_that_a_model_cannot_take_behind_one_another_stay_beside_padding(caplog):
    model = model_of("bloom")
    batch = batch_of()
    with packed(model, True):
        torch.testing.assert_close(token_losses(model, batch, "real").double(), plain(model, batch, batch.real), atol=1e-5, rtol=1e-5)
    assert "rows are not packed" in caplog.text
    caplog.clear()
    model, seen = model_of("tied"), []
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[:2])))
    with packed(model, True):
        token_losses(model, batch, "real")
        with torch.no_grad():
            token_losses(model, batch, "real")
    assert seen[-2:] == [(1, 20), (3, 9)]
    assert not caplog.text
    with packed(model, True, routed=True):
        token_losses(model, batch, "real")
    assert seen[-1] == (3, 9)
    assert "labels" in caplog.text
