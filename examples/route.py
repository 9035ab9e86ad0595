"""Route knowledge into a block of units while a model learns, then cut the block out.

python examples/route.py
"""

import random

import sluicegate as sg
from sluicegate.routing.train import train_routed

# A small GPT-2 that ships without weights. A model of yours: sg.load("path/or/hub-id"); any PyTorch module can be
# routed.
model, tokenizer = sg.load("arithmetic-tiny", seed=0)
split = sg.tasks.arithmetic(problems=0).split(seed=0)  # forget: products and quotients; retain: sums and differences

# 48 units of every MLP become the block "forget".
router = sg.Router(model, {"transformer.h.*.mlp": {"forget": 48}}, ablate={"retain": ["forget"]})
rows = sg.encode(tokenizer, split.forget + split.retain)
draw = random.Random(0)


def label(batch) -> list[str]:
    """Rows to forget train the block alone. Half of the others are computed without it, so that the rest learns to do
    without."""
    return ["forget" if n < len(split.forget) else draw.choice(["retain", "unlabelled"]) for n in batch.index.tolist()]


train_routed(model, rows, label, router, sg.Schedule(steps=600, batch=64, warmup=50, decay="cosine", lr=6e-3))


def show(title: str) -> None:
    forget, retain = (sg.score(model, sg.encode(tokenizer, group)).mean()["exact"] for group in (split.forget, split.retain))
    print(f"{title:>12}: products and quotients {forget:4.0%}, sums and differences {retain:4.0%}")


show("trained")
cut = router.ablate("forget")
with cut(model):  # as if the block were not there; undone on leaving
    show("without")
router.remove()  # the hooks go, the weights stay
print(cut.bake(model))  # for good: the model is smaller, and an ordinary one
show("cut")
