"""Steer a model: one vector, added to the output of its attention, makes it multiply where it is asked to add.

python examples/steer.py
"""

import torch

import sluicegate as sg
from sluicegate.steering.meandiff import MeanDiff

# A small GPT-2 that ships without weights, taught sums and products. A model of yours: sg.load("path/or/hub-id").
model, tokenizer = sg.load("arithmetic-tiny", seed=0)
split = sg.tasks.arithmetic(problems=0).split(seed=0)  # forget: products and quotients; retain: sums and differences
sg.train(model, tokenizer, split.forget + split.retain, sg.Schedule(steps=400, batch=64, warmup=40))

# The vector: mean activation on prompts that multiply, minus the mean on prompts that add, at the last token.
pairs = [(a, b) for a in range(2, 10) for b in range(2, 10)]
products = [f"{a} * {b} =" for a, b in pairs]
sums = [f"{a} + {b} =" for a, b in pairs]
vector = MeanDiff("transformer.h.0.attn").fit(model, tokenizer, products[::2], sums[::2])
print(f"a vector of {vector.values.numel()} numbers, of length {vector.values.norm():.2f}")


def share_of(answers: list[str]) -> float:
    """How often the model's first choice for the prompts that add, held out from the vector, is this answer."""
    rows = sg.encode(tokenizer, [sg.Item(prompt, answer) for prompt, answer in zip(sums[1::2], answers, strict=True)])
    return float(sg.score(model, rows).exact.mean())


added = [f" {a + b}" for a, b in pairs][1::2]
multiplied = [f" {a * b}" for a, b in pairs][1::2]
random = torch.randn_like(vector.values)
control = type(vector)(random * vector.values.norm() / random.norm(), vector.module)
for name, steering in {"as it is": 0 * vector, "half of it": 0.5 * vector, "the vector": vector, "a random one": control}.items():
    with steering(model):  # undone on leaving
        print(f"{name:>12}: answers with the sum {share_of(added):4.0%}, with the product {share_of(multiplied):4.0%}")
