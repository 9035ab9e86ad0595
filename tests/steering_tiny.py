"""A tiny random model with prompts of its own in files, for the tests of steering's stages and verbs."""

import json
from pathlib import Path

from architectures import CONFIGS
from sluicegate.engine.models import fresh, load_tokenizer, save

PAIRS = [("3 + 4 =", "ann fills 3 bags"), ("5 + 4 =", "bo shares 5 shells"), ("7 + 1 =", "cleo finds 7 plums")]
PROMPTS = ["3 + 4", "bo shares 12 shells", "ann fills 3"]
RULE = "words:plums,bags,shells,12"


def material(folder: Path) -> dict[str, str]:
    """Write a model of three layers, 32 wide, pairs and prompts into `folder`; the settings that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIGS["llama"]()
    config.num_hidden_layers = 3
    save(fresh(config, 0), load_tokenizer("arithmetic-tiny"), folder / "model")
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps({"positive": p, "negative": n}) for p, n in PAIRS))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "positive.txt").write_text("\n".join(p for p, _ in PAIRS))
    (folder / "negative.txt").write_text("\n".join(n for _, n in PAIRS))
    named = {"model": "model", "pairs": "pairs.jsonl", "prompts": "prompts.txt"}
    return {name: str(folder / file) for name, file in named.items()} | {"behaviour": RULE}
