"""The field's benchmarks: where their rows lie, and what is measured on them (``data/benchmarks.toml``).

Rows come from the hub, or from a folder with one file a name: ``DIR/forget10.jsonl`` (in any format that is read), or
``DIR/tofu/forget10.jsonl``. Nothing is opened before it is asked for. Imports no torch.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError, nearest
from sluicegate.values import items
from sluicegate.values.items import GROUPS, Item, Sources
from sluicegate.values.rows import decoded

DATA_DIR = "SLUICEGATE_DATA_DIR"
"""The environment variable that names the folder of files, for every verb."""
Rows = list[tuple[str, Mapping[str, Any]]]
"""Each row after the words for where it stands."""


@cache
def table() -> dict[str, Any]:
    """What is known of benchmarks: places, configurations, groups and about."""
    return tomllib.loads((resources.files("sluicegate") / "tasks" / "data" / "benchmarks.toml").read_text("utf-8"))


def check(benchmark: str) -> tuple[str, str]:
    """Name and configuration of ``tofu:forget10``; raises `UserError` that names the nearest where there is none."""
    name, _, configuration = benchmark.partition(":")
    known = [f"{name}:{one}".rstrip(":") for name, these in table()["configurations"].items() for one in these]
    if benchmark not in known and name != "rwku":
        raise UserError(f"there is no benchmark {benchmark!r}. Nearest: {nearest(benchmark, known, most=5)}.")
    return name, configuration


def about(benchmark: str) -> dict[str, str]:
    """Names and meanings of all that is measured on a benchmark."""
    name, told = check(benchmark)[0], table()["about"]
    return {**told[name], **(told["membership"] if "holdout" in table()["groups"][name] else {})}


def place(name: str, data_dir: str = "") -> str:
    """The file or hub data set of a name such as ``tofu/forget10``, as `rows.decoded` takes it."""
    hub, file = f"hub:{table()['places'][name]}", name.partition("/")[2]
    if not (folder := data_dir or os.environ.get(DATA_DIR, "")):
        return hub
    home = Path(folder).expanduser()
    if found := [path for where in (home / name, home / file) for path in sorted(where.parent.glob(f"{where.name}.*"))]:
        return str(found[0])
    there = nearest(f"{file}.jsonl", sorted(path.name for path in home.glob("*.*"))) or "no file"
    raise UserError(f"no file {file}.jsonl in {folder!r}: there is {there}. On the hub it is {hub}, read where no folder is named.")


def rows(name: str, columns: Collection[str], data_dir: str = "") -> Rows:
    """All rows of a name; raises `UserError` for a row that lacks one of the columns, and where there are none."""
    source = place(name, data_dir)
    try:
        found = list(decoded(source))
    except UserError as error:
        file = f"{name.partition('/')[2]}.jsonl"
        more = f" Or name a folder that holds {file}: --data-dir, or {DATA_DIR}." if source.startswith("hub:") else ""
        raise UserError(f"{error}{more}") from None
    for where, row in found or [(source, {})]:
        if missing := [column for column in columns if not isinstance(row, dict) or row.get(column) in (None, "", [])]:
            keys = [*map(str, row)] if isinstance(row, dict) else []
            raise UserError(f"{where}: no {missing[0]!r} in a row of {name}. Nearest: {nearest(missing[0], keys) or 'nothing'}.")
    return found


def needed(benchmark: str, data_dir: str = "", most: int = 0) -> dict[str, Rows]:
    """The rows of a benchmark by group, the first `most` of each (0: all); `UserError` for what is not there."""
    name, configuration = check(benchmark)
    found = dict[str, Rows]()
    for group, how in table()["groups"][name].items():
        file = how["rows"].format(configuration.replace("forget", "holdout") if group == "holdout" else configuration)
        try:
            found[group] = rows(f"{name}/{file}", how["columns"], data_dir)
        except UserError:
            if not how.get("optional"):
                raise
    if name == "rwku" and configuration:
        known = {str(row["subject"]) for these in found.values() for _, row in these}
        if configuration not in known:
            raise UserError(f"RWKU has no target {configuration!r}. Nearest: {nearest(configuration, sorted(known))}.")
        found = {group: [(where, row) for where, row in these if row["subject"] == configuration] for group, these in found.items()}
    for where, row in found.get("choices", ()):
        if type(row["answer"]) is not int or not 0 <= row["answer"] < len(row["choices"]):
            raise UserError(f"{where}: the answer is {row['answer']!r}; of {len(row['choices'])} choices, expected a number from 0.")
    return {group: these[: most or None] for group, these in found.items() if these}


def digest(groups: Mapping[str, Rows]) -> str:
    """The sha256 (hex) of rows by group: what a run's hash holds in place of the folder that they were read from."""
    content = {group: [row for _, row in found] for group, found in sorted(groups.items())}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def sources() -> Sources:
    """``task:tofu/forget10`` and all the other rows, as data for every verb, labelled by their name."""
    return {f"task:{name}": partial(_labelled, name) for name in table()["places"]}


def _labelled(name: str) -> tuple[Item, ...]:
    label = next((group for group in GROUPS if group in name), "")
    return tuple(replace(item, label=item.label or label) for item in items.load(place(name))[0])
