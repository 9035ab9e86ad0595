"""Audit a model: is what it was made to forget gone, or only hidden?

python examples/audit.py                            # a small model, made on the spot
python examples/audit.py MODEL FORGET [REFERENCE]   # your own: folders or hub ids, and a file of rows
"""

import json
import sys
from pathlib import Path

import sluicegate as sg


def make_models() -> tuple[str, str, str]:
    """Folders of a model whose products and quotients were suppressed and of one that never knew them, and the file of
    these."""
    split = sg.tasks.arithmetic(problems=0).split(seed=0)
    schedule = sg.Schedule(steps=300, batch=64, warmup=30, decay="cosine", lr=6e-3)
    base, tokenizer = sg.load("arithmetic-tiny", seed=0)
    sg.train(base, tokenizer, split.forget + split.retain, schedule)
    never, _ = sg.load("arithmetic-tiny", seed=1)
    sg.train(never, tokenizer, split.retain, schedule)
    suppressed, _ = sg.unlearn(base, tokenizer, split, sg.MaxEnt(), sg.Schedule(steps=60, lr=2e-3))
    for name, model in {"suppressed": suppressed, "never": never}.items():
        sg.save(model, tokenizer, Path("models") / name)
    rows = [json.dumps({"prompt": row.prompt, "answer": row.answer, "fact": row.fact}) for row in split.forget]
    Path("forget.jsonl").write_text("\n".join(rows))
    return "models/suppressed", "models/never", "forget.jsonl"


def main() -> None:
    if len(sys.argv) > 2:
        model, forget, *others = sys.argv[1:]
        reference, attack = "".join(others[:1]), sg.Attack()
    else:
        model, reference, forget = make_models()
        attack = sg.Attack(lrs=(6e-3,), steps=20, checkpoints=(0, 10, 20))

    # Fine-tunes the model on half of the facts, and looks how much of the other half, which it is never shown, comes
    # back. The reference says what an attacker gets out of a model that never knew; without one no verdict can be
    # given.
    found = sg.audit(model, forget=forget, reference=reference, suite="none", attack=attack, seeds=3, out="audit")
    print(found.verdict.word.upper())
    for sentence in found.verdict.sentences:
        print(sentence)
    print("the page:", found.page)


if __name__ == "__main__":  # worker processes import this file again
    main()
