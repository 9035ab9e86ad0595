"""Looking at run folders and at the machine. None of it imports torch, except to show a model's tokens."""

import os
import platform
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError
from sluicegate.runs.directory import check_finished, damaged, read_identity, read_index, read_json, remove_run
from sluicegate.runs.stage import versions


def ls(_: list[str], root: Path) -> list[dict[str, Any]]:
    """Every run folder below `root`, in the order of their names."""
    if not root.is_dir():
        raise UserError(f"no folder {str(root)!r}. Runs are kept under runs/ of the folder a command was started in; see --root.")
    return [_row(file.parent) for file in sorted(root.rglob("parents.json"))]


def _row(path: Path) -> dict[str, Any]:
    """One run folder in a few words; "damaged" where a file cannot be read, or is not what was written."""
    row: dict[str, Any] = {"run": str(path), "state": "damaged", "hash": "", "scores": {}}
    try:
        row["hash"] = str((read_identity(path) or {}).get("hash", ""))[:8]
        if not (path / "DONE").exists():
            return row | {"state": _progress(path)}
        check_finished(path, only=("config.toml", "parents.json", "env.json", "result.json"))
        return row | {"scores": _means(read_json(path / "result.json")), "state": "done"}
    except (ValueError, OSError, AttributeError, LookupError, TypeError):  # damaged, or a table of another form than ours
        return row


def _means(result: dict[str, Any]) -> dict[str, float | None]:
    means = {group: values.get("exact") for group, values in result.get("scores", {}).items()}
    if "owned" in result:  # an attack: what it found says more than what was there before
        means = {f"{name} after the attack": result[key]["recall"][0][-1] for name, key in (("owned", "owned"), ("unseen", "held_out"))}
    means |= result.get("measures", {})
    return {name: None if value is None else float(value) for name, value in means.items()}


def _progress(path: Path) -> str:
    file = path / "state" / "index.json"
    if not file.exists():
        return "started"
    parts = read_index(file)["parts"]
    return "stopped at " + ", ".join(f"{name}: step {part['values'].get('steps', '?')}" for name, part in list(parts.items())[-1:])


def show_run(runs: list[str], _: Path) -> dict[str, Any]:
    """All that one run folder says of itself; `UserError` for a finished one that is not what it was when it ended."""
    path = _one(runs, 1)[0]
    if (path / "DONE").exists():
        check_finished(path)
    try:
        config = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise damaged(path / "config.toml", "it is not TOML") from None
    found: dict[str, Any] = {**_row(path), "config": config}
    for name in ("parents", "env", "seconds", "result"):
        if (path / f"{name}.json").exists():
            found[name] = read_json(path / f"{name}.json")
    return found


def diff(runs: list[str], _: Path) -> dict[str, Any]:
    """Settings, parents, environment and scores in which two runs differ: name -> [first, second]."""
    first, second = (show_run([str(path)], Path()) for path in _one(runs, 2))
    found = {}
    for part in ("config", "parents", "env", "result"):
        a, b = ({k: v for k, v in _flat(found.get(part, {})).items() if not k.startswith("curves.")} for found in (first, second))
        for name in sorted(a.keys() | b.keys()):
            if a.get(name) != b.get(name):
                found[f"{part}.{name}"] = [a.get(name), b.get(name)]
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: v for key, inner in value.items() for name, v in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def rm(runs: list[str], _: Path) -> list[str]:
    """Remove run folders; what is none, or a link to one, is refused before any is removed. Raises `UserError` for a
    run that a process is at work on, and where files are left that no run wrote."""
    paths = _one(runs, 0)
    for path in paths:
        if path.is_symlink():
            raise UserError(f"{str(path)!r} is a link, which is not followed. Name the run folder itself, or remove the link with: rm")
    if left := [name for path in paths for name in remove_run(path)]:
        told = ", ".join(map(repr, left))
        raise UserError(f"the runs are removed, but not {told}: no run is known to have written that. Look at it and remove it yourself.")
    return [str(path) for path in paths]


def _one(runs: list[str], count: int) -> list[Path]:
    """Check that these are run folders, `count` of them (0: at least one)."""
    if (count and len(runs) != count) or not runs:
        raise UserError(f"this takes {count or 'one or more'} run folder(s), and got {len(runs)}. List them with: sluicegate runs ls")
    for name in runs:
        if not (Path(name) / "parents.json").exists() or not (Path(name) / "config.toml").exists():
            raise UserError(f"{name!r} is not a run folder (no parents.json and config.toml in it). List them with: sluicegate runs ls")
    return [Path(name) for name in runs]


ACTIONS: dict[str, Callable[[list[str], Path], Any]] = {"ls": ls, "show": show_run, "diff": diff, "rm": rm}


def doctor(model: str, rows: str, template: bool, columns: str = "") -> dict[str, Any]:
    """Versions, device, cores, world size and, with a model, its first prompt in tokens."""
    import torch

    from sluicegate.engine.encoding import visible
    from sluicegate.engine.models import device, load_tokenizer

    packages = ("sluicegate", "torch", "transformers", "numpy", "safetensors", "tyro", "matplotlib", "datasets")
    found: dict[str, Any] = {
        "versions": {"python": platform.python_version(), **versions(*packages)},
        "device": str(device()),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }
    if model:
        tokenizer = load_tokenizer(model)
        encoded = _first(tokenizer, rows, template, columns)
        ids = encoded.ids[0].tolist()
        bos = tokenizer.bos_token_id
        found["prompt"] = {
            "tokens": visible(tokenizer, encoded),
            "bos": tokenizer.bos_token or "none",
            "bos_count": next((i for i, token in enumerate(ids) if token != bos), len(ids)),
            "chat_template": bool(tokenizer.chat_template),
        }
    return found


def what_fits(model: str, base: str, stage: str, memory: float, plan: dict[str, Any], dtype: str, optimizer: str) -> dict[str, Any]:
    """What a stage (or all) of a model holds in memory, by dtype and optimiser, and whether it fits in `memory` GB."""
    from sluicegate.engine.memory import KINDS, available, shape, table

    if not model:
        raise UserError("doctor --for works out what a model needs: name one, or a shape: 1B, 8B or 70B.")
    size = memory * 1e9 or available(free=False)
    kinds = tuple(kind for kind in KINDS if kind != "relearn") if stage == "all" else (stage,)
    rows = table(shape(model, base=base), kinds, size, plan, dtype, optimizer)
    return {"model": model, "memory": size, "devices": plan["devices"], "plan": plan, "rows": rows}


def _first(tokenizer: Any, rows: str, template: bool, columns: str) -> Any:
    """The first row of the user's, or an example whose answer the tokenizer knows."""
    from sluicegate.engine.encoding import encode
    from sluicegate.tasks import read
    from sluicegate.values.items import Item

    if rows:
        return encode(tokenizer, [read(rows, columns=columns)[0]], template=template)
    try:
        return encode(tokenizer, [Item("The capital of France is", " Paris")], template=template)
    except UserError:
        return encode(tokenizer, [Item("1 + 1 =", " 2")], template=template)
