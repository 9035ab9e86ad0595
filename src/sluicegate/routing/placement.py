"""Placement: where a model's blocks lie, kept beside its weights, so that a saved model can still be cut."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import nn

from sluicegate.errors import UserError
from sluicegate.routing.router import Router
from sluicegate.values.files import read_json, reading

FILE = "routing.json"
FORMAT = 1

Placement = dict[str, dict[str, tuple[int, int]]]
"""By site, each block's units as (start, stop): what `Router` takes."""


def placement(router: Router) -> Placement:
    """Where the blocks of a router lie."""
    return {site.name: dict(placed) for site, placed in router.sites}


def without(placed: Mapping[str, Mapping[str, tuple[int, int]]], blocks: Sequence[str], gone: Collection[str]) -> Placement:
    """The placement that is left when some blocks are cut; at the sites `gone` their units are no more, and later ones
    move up."""
    left: Placement = {}
    for site, own in placed.items():
        removed = [extent for name, extent in own.items() if name in blocks and site in gone]
        for name, (start, stop) in own.items():
            if name not in blocks:
                shift = sum(b - a for a, b in removed if b <= start)
                left.setdefault(site, {})[name] = (start - shift, stop - shift)
    return left


def save_placement(folder: Path, placed: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
    """Write the placement beside a saved model's weights."""
    content = {"format": FORMAT, "sites": {site: {name: list(extent) for name, extent in own.items()} for site, own in placed.items()}}
    (folder / FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_placement(folder: Path) -> Placement:
    """Read where a saved model's blocks lie; raises `UserError` where the folder does not say."""
    file = folder / FILE
    if not file.is_file():
        raise UserError(
            f"{str(folder)!r} has no {FILE}, so nobody knows which of its units were routed. Give the model of a `route` run, or cut from "
            "Python: Router(model, {'model.layers.*.mlp': {'forget': 64}}).ablate('forget')."
        )
    with reading(file, "Route the model again, or restore the file."):
        content = read_json(file)
        if content["format"] != FORMAT:
            raise UserError(f"{str(file)!r} has layout {content['format']}; this version reads {FORMAT}. Route the model again.")
        return {site: {name: (int(a), int(b)) for name, (a, b) in own.items()} for site, own in content["sites"].items()}


def cut(
    model: nn.Module, placed: Mapping[str, Mapping[str, tuple[int, int]]], blocks: Sequence[str]
) -> tuple[Placement, Mapping[str, str]]:
    """Take blocks (all, where none is named) out of a model for good.

    Returns the placement of the others, and by site why its units are still there, as zeros.
    """
    router = Router(model, placed)
    edit = router.ablate(*blocks)
    router.remove()
    done = edit.bake(model)
    left = done.left if done is not None else {}
    return without(placed, edit.blocks, [site for site in placed if site not in left]), left
