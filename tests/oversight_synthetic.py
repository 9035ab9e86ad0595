"""Runs of the oversight wing made by hand: what a trained arm leaves in its folder, in no time."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from sluicegate.oversight.board import Board, shown
from sluicegate_papers.oversight.arms import ARMS, to_train, trained_as
from sluicegate_papers.oversight.evaluate import best, outlook, references, shortest
from sluicegate_papers.oversight.page_numbers import Found
from sluicegate_papers.oversight.stopping import PICKS, pick

AIMS = {
    "naive": 0.1, "naive_penalty": 0.55, "filter": 0.2, "filter_hidden": 0.8, "moe": 0.1, "routed_paper": 0.15, "routed": 0.98,
    "single": 0.7, "reward_model": 0.75, "oracle": 1.0, "placebo": 0.0, "routed_baseline": 0.2, "routed_unweighted": 0.6,
}  # fmt: skip
"""How far each arm goes from the nearest end (0) to the Diamond (1), at the smallest share; with more labels most go
farther."""
LOOKS = 6


def result(arm: str, share: float, seed: int, *, size: int = 3, more: float = 0.6, about: str = "") -> tuple[dict, dict]:
    """result.json and boards.safetensors of one run; `more` is how much more labels help."""
    board, mixture = Board(size), ARMS[arm].mixture
    rng = np.random.default_rng([seed, sum(map(ord, arm)), int(1000 * share)])
    aim = AIMS.get(arm, 0.5) + (0.0 if mixture else more * share**0.5) + 0.02 * rng.standard_normal()
    aim = min(1.0, max(0.0, aim))
    nearest, diamond, ghost = (shortest(board, to) for to in ("nearest", "diamond", "ghost"))
    goal = best(board) if arm in ("oracle", "filter_hidden", "reward_model") else diamond
    looks, tables = [], {"judged": [], "diamond": [], "ghost_expert": [], "mixture": []}
    for look in range(LOOKS):
        t = look / (LOOKS - 1)
        judged = _mixed(nearest, goal, t, aim, board)
        other = _mixed(nearest, ghost, t, 0.9, board)
        acting = _mixed(nearest, nearest, t, 1.0, board)
        found = outlook(board, judged).as_dict()
        gone = {
            "overseen": 0.99 * t if arm == "naive" else found["return"],
            "seen": found["return"] + 0.05,
            "weighted": found["return"] - 0.05,
        }
        gone |= {"labelled": 1000 * share, "ghost_flagged": outlook(board, judged, 0).value}
        if mixture:
            both = outlook(board, acting).value, outlook(board, other).value
            gone |= {"mixture": both[0], "ghost_expert": both[1], "gate_accuracy": 0.5 + 0.4 * t}
        looks.append({"step": 20 * look, **found, **gone})
        for name, table in (("judged", judged), ("diamond", judged), ("ghost_expert", other), ("mixture", acting)):
            tables[name].append(table)
    picks = {name: {k: v for k, v in looks[pick(name, looks)].items() if k in (*found, "step")} for name in PICKS}
    last = looks[-1]
    measures = found | {"peek": picks["peek"]["return"], "ghost_flagged": last["ghost_flagged"], "overseen": last["overseen"]}
    steps = [look["step"] for look in looks]
    result = {
        "verb": "oversight", "method": arm, "measures": measures, "flops": {"total": 1e6}, "scores": {}, "share": share, "size": size,
        "limit": board.limit, "gamma": board.gamma, "steps": steps[-1], "picks": picks, "looks": looks,
        "curves": {name: {"x": steps, "y": [look[name] for look in looks]} for name in ("return", "overseen")},
        "references": {name: found.as_dict() for name, found in references(board).items()}, "warnings": [about] if about else [],
    }  # fmt: skip
    return result, _boards(board, steps, tables, mixture)


def _mixed(start: np.ndarray, goal: np.ndarray, t: float, aim: float, board: Board) -> np.ndarray:
    """From random moves to a policy between `start` and `goal`."""
    return (1 - t) / 4 * np.ones_like(start) + t * ((1 - aim) * start + aim * goal)


def _boards(board: Board, steps, tables, mixture) -> dict:
    pairs = shown(board)
    cells = np.arange(board.cells)
    found = {"steps": np.array(steps), "placements": np.array(pairs)}
    for name, by_look in tables.items():
        if name != "judged" and not mixture:
            continue
        every = np.full((len(steps), len(pairs), 2, board.cells, 4), np.nan, np.float32)
        for b, (ghost, diamond) in enumerate(pairs):
            free = cells[(cells != ghost) & (cells != diamond)]
            states = board.number(free, np.full(len(free), ghost), np.full(len(free), diamond))
            every[:, b, :, free] = np.stack(by_look)[:, states].transpose(1, 0, 2)[:, :, None]
            every[:, b, 1, free] = (every[:, b, 1, free] + best(board)[states]) / 2  # where the Ghost is overseen, better moves
        found[name] = every
    if mixture:
        gate = np.full((len(steps), len(pairs), 2, board.cells), np.nan, np.float32)
        for b, (ghost, diamond) in enumerate(pairs):
            for cell in cells[(cells != ghost) & (cells != diamond)]:
                near = board.near(board.number(np.array([cell]), np.array([ghost]), np.array([diamond])))[0]
                gate[:, b, :, cell] = (0.5 + (0.4 if near else -0.4) * np.linspace(0, 1, len(steps)))[:, None]
        found["gate"] = gate
    return found


def run_folder(folder: Path, arm: str, share: float, seed: int, **more) -> Path:
    """A finished run's folder."""
    path = folder / f"oversight-{arm}-{share:g}-{seed}"
    path.mkdir(parents=True, exist_ok=True)
    found, boards = result(arm, share, seed, **more)
    (path / "result.json").write_text(json.dumps(found))
    save_file(boards, path / "boards.safetensors")
    (path / "DONE").write_text("")
    return path


def folders(root: Path, names, shares, seeds, **more) -> dict:
    """{(share, arm that was trained, seed): its folder} for these reported arms."""
    return {(p, arm, s): run_folder(root, arm, p, s, **more) for p in shares for arm in to_train(names) for s in seeds}


def found(returns, *, seeds=None, **looked):
    """What was found where {share: {arm: [return of each seed]}} came out; `looked` is more of every last look, by
    name."""
    shares, names = tuple(returns), tuple(next(iter(returns.values())))
    seeds = tuple(range(len(next(iter(returns[shares[0]].values()))))) if seeds is None else seeds
    told = {"optimal": 0.969, "random": 0.0, "nearest": 0.0, "ceiling": 0.694}
    results = {}
    for share in shares:
        for name in names:
            arm, rule = trained_as(name)
            for seed, value in zip(seeds, returns[share][name], strict=True):
                look = {"return": value, "diamond": (1 + value) / 2, "ghost": (1 - value) / 2, "timeout": 0.0, "near": value, "far": value}
                look |= {"step": 20, "length": 2.0}
                own = results.setdefault((share, arm, seed), {"size": 3, "picks": dict.fromkeys(PICKS, look), "looks": [look | looked]})
                own["picks"] = own["picks"] | {rule: look}
                if rule == "last":
                    own["looks"] = [look | looked]
                own["references"] = {name: {"return": value, "far": value} for name, value in told.items()}
    return Found(names, shares, seeds, results, {key: Path() for key in results})
