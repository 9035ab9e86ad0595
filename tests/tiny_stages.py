"""Small stages in run folders, for the tests of what happens to the folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

from architectures import learner
from jsonl import write_jsonl
from sluicegate import tasks
from sluicegate.engine.models import load_tokenizer, save

SRC = Path(__file__).resolve().parents[1] / "src"


def material(folder: Path) -> dict[str, str]:
    """Write a model and rows for the stages into `folder`; return the settings that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    split = tasks.arithmetic(problems=0, pool=64).split()
    paths = {}
    for group in ("forget", "retain", "unlabelled"):
        rows = split.group(group)
        write_jsonl(rows[:: max(len(rows) // 16, 1)], folder / f"{group}.jsonl")
        paths[group] = str(folder / f"{group}.jsonl")
    save(learner(), load_tokenizer("arithmetic-tiny"), folder / "model")
    return paths | {"model": str(folder / "model")}


def settings_of_verbs(own: dict[str, str], steps: int = 6) -> dict[str, dict]:
    """Flat settings of one stage of every kind, by a name for it."""
    labelled = {name: own[name] for name in ("model", "forget", "retain")}
    everything = own | {"batch": 8, "steps": steps, "lr": 1e-3}
    return {
        "train": everything | {"verb": "train"},
        "maxent": labelled | {"verb": "unlearn", "method": "maxent", "batch": 8, "steps": steps, "lr": 1e-3},
        "npo": labelled | {"verb": "unlearn", "method": "npo", "batch": 8, "steps": steps, "lr": 1e-3},
        "rmu": labelled | {"verb": "unlearn", "method": "rmu", "batch": 8, "steps": steps, "lr": 1e-3},
        "distill": everything | {"verb": "distill", "stop_at": 0.9, "check_every": 2, "cache_teacher": True},
        "undo": everything | {"verb": "undo", "alpha": 0.5, "stop_at": 0.0},
        "relearn": labelled | {"verb": "relearn", "lrs": [1e-3, 1e-2], "steps": steps, "batch": 8, "checkpoints": [2, 4]},
    }


def outcome(folder: Path) -> dict[str, bytes]:
    """What a finished run has to show, bitwise."""
    names = ["metrics.jsonl", "result.json", "config.toml", "parents.json"]
    found = {name: (folder / name).read_bytes() for name in names}
    weights = folder / "model" / "model.safetensors"
    return found | ({"weights": weights.read_bytes()} if weights.exists() else {})


_RUN = """
import json, sys, torch
torch.set_num_threads(1)
from sluicegate.execution.execute import execute
from sluicegate.runs.stage import from_config
from pathlib import Path
execute(from_config(json.loads(sys.argv[1])), Path(sys.argv[2]), exact=True, title="tested", progress=lambda *a: print(a[1], flush=True))
print("end", flush=True)
"""


def start(settings: dict, folder: Path, keep_seconds: float = 0) -> subprocess.Popen:
    """Run a stage in a process of its own; it prints every step it makes."""
    surroundings = os.environ | {"PYTHONPATH": str(SRC), "SLUICEGATE_KEEP_SECONDS": str(keep_seconds), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _RUN, json.dumps(settings), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings)
