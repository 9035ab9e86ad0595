"""The field's benchmarks: where their rows lie, and what is measured on them.

Rows come from the hub, or from a folder with one file a name: ``DIR/forget10.jsonl`` (any format that is read), or
``DIR/tofu/forget10.jsonl``. Nothing is opened before it is asked for. Imports no torch.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError, nearest
from sluicegate.values import items
from sluicegate.values.items import Item, Sources
from sluicegate.values.rows import FORMATS, decoded

DATA_DIR = "SLUICEGATE_DATA_DIR"
"""The environment variable that names the folder of files, for every verb."""
Rows = list[tuple[str, Mapping[str, Any]]]
"""Each row after the words for where it stands."""

_TOFU = [
    f"{group}{share}"
    for group, shares in (("forget", "01 05 10"), ("retain", "90 95 99"), ("holdout", "01 05 10"))
    for share in shares.split()
]
_TOFU += ["full", "real_authors", "world_facts", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"]
_MUSE = {"forget": "raw:forget", "retain": "raw:retain1", "holdout": "raw:holdout", "verbmem": "verbmem:forget"}
_MUSE |= {f"knowmem-{group}": f"knowmem:{group}_qa" for group in ("forget", "retain")}
_MUSE |= {f"examples-{group}": f"knowmem:{group}_qa_icl" for group in ("forget", "retain")}
_MUSE |= {f"privleak-{group}": f"privleak:{group}" for group in ("forget", "holdout")}
_LEVELS = [f"{group}_level{level}" for group, most in (("forget", 3), ("neighbor", 2)) for level in range(1, most + 1)]
PLACES = (
    {f"tofu/{name}": f"locuslab/TOFU:{name}:train" for name in (*_TOFU, *(f"forget{share}_perturbed" for share in ("01", "05", "10")))}
    | {f"muse/{body.lower()}-{name}": f"muse-bench/MUSE-{body}:{place}" for body in ("News", "Books") for name, place in _MUSE.items()}
    | {f"wmdp/{field}": f"cais/wmdp:wmdp-{field}:test" for field in ("bio", "chem", "cyber")}
    | {f"wmdp/{name}": f"cais/wmdp-corpora:{name}-corpus:train" for name in ("bio-retain", "cyber-forget", "cyber-retain")}
    | {f"rwku/{name}": f"jinzhuoran/RWKU:{name}:test" for name in _LEVELS}
)
"""Where the rows of each name lie on the hub: data set, configuration and split."""

_ANSWERS = {
    "probability": "probability of the answer, as a geometric mean a token",
    "rouge": "ROUGE-L recall of what is written greedily; 1: word for word",
    "truth_ratio": "how far the true answer stands out from false ones; 1: wholly, 0: not at all",
}
_CHOSEN = {"probability": "probability of the answer among the answers offered; chance 0.25"}
_MEMORY = {
    "forget_memorised": "share of answer tokens that are the first choice (exact memorisation)",
    "forget_extraction": "share of an answer that its beginning is not needed for (extraction strength)",
}
ATTACKS = ("loss", "zlib", "min_k", "min_k_pp", "blind")
_MEMBERS = {f"auc_{name}": f"AUC of membership by {name}, forget against holdout; chance 0.5" for name in ATTACKS}
_WRITTEN = "ROUGE-L F1 of what is written"
ABOUT: dict[str, dict[str, str]] = {
    "tofu": {
        "model_utility": "harmonic mean of the nine numbers of retain, authors and facts; the retain model's is the aim",
        "forget_quality": "p of a KS test that truth ratios are the reference's; above 0.05: no difference seen",
        **{f"{group}_{name}": f"{group}: {what}" for group in ("retain", "authors", "facts") for name, what in _ANSWERS.items()},
        **{f"{group}_probability": f"{group}: {_CHOSEN['probability']}" for group in ("authors", "facts")},
        **{f"forget_{name}": f"forget: {_ANSWERS[name]}" for name in ("probability", "rouge")},
        "forget_truth_ratio": "forget: min(R, 1/R); 1: false answers are as likely as the true one",
        **_MEMORY,
        **_MEMBERS,
    },
    "muse": {
        "verbmem": f"{_WRITTEN} after a passage's beginning; the retrained model's is the aim",
        "knowmem_forget": f"{_WRITTEN} to questions on the forget set; the retrained model's is the aim",
        "knowmem_retain": f"{_WRITTEN} to questions on the retain set; higher is better",
        "privleak": "100 (AUC / reference's AUC - 1), of Min-40%; 0: as the reference, below: leaks, above: over-unlearned",
        **_MEMBERS,
    },
    "wmdp": {"accuracy": "share of questions whose right letter is the likeliest; chance 0.25"},
    "rwku": {name.replace("_level", ""): f"ROUGE-L recall of the answers at level {name[-1]} of {name[:-7]}" for name in _LEVELS},
}
"""What is measured, by benchmark: each number's name, what it is, and the level it is to be seen against."""


def check(benchmark: str) -> tuple[str, str]:
    """A benchmark's name and configuration, of ``tofu:forget10``; raises `UserError` with the nearest for another."""
    name, _, configuration = benchmark.partition(":")
    known = {"tofu": ("forget01", "forget05", "forget10"), "muse": ("news", "books"), "wmdp": ("bio", "chem", "cyber"), "rwku": ()}
    if name not in known or (name != "rwku" and configuration not in known[name]):
        names = [f"{name}:{one}" for name, these in known.items() for one in these] + ["rwku", "rwku:TARGET"]
        raise UserError(f"there is no benchmark {benchmark!r}. Nearest: {nearest(benchmark, names, most=6)}.")
    return name, configuration


def about(benchmark: str) -> dict[str, str]:
    """Names and meanings of what is measured on a benchmark; nothing for the empty name."""
    return ABOUT[check(benchmark)[0]] if benchmark else {}


def place(name: str, data_dir: str = "") -> str:
    """The file or hub data set of a name such as ``tofu/forget10``, as `rows.decoded` takes it."""
    if name not in PLACES:
        raise UserError(f"there are no rows {name!r}. Nearest: {nearest(name, sorted(PLACES), most=8)}.")
    hub = f"hub:{PLACES[name]}"
    if not (folder := data_dir or os.environ.get(DATA_DIR, "")):
        return hub
    home, file = Path(folder).expanduser(), name.partition("/")[2]
    for found in (path for where in (home / name, home / file) for path in sorted(where.parent.glob(f"{where.name}.*"))):
        return str(found)
    there = sorted({path.name for path in home.glob("*.*")}) if home.is_dir() else []
    near = f"Nearest: {nearest(file, there)}." if there else "There is nothing to read in it."
    raise UserError(f"no file {file}.jsonl in {folder!r}. {near} It is {hub} on the hub, which is read where no folder is named.")


def rows(name: str, columns: Iterable[str], data_dir: str = "") -> Rows:
    """All rows of a name; raises `UserError` for one that lacks one of the columns, and where there are none."""
    try:
        found = list(decoded(source := place(name, data_dir)))
    except UserError as error:
        if data_dir or os.environ.get(DATA_DIR):
            raise
        raise UserError(f"{error} Or name a folder that holds {name.partition('/')[2]}.jsonl: --data-dir, or {DATA_DIR}.") from None
    if not found:
        raise UserError(f"{source!r} holds no rows. Expected {FORMATS}.")
    for where, row in found:
        for column in columns:
            if not isinstance(row, dict) or row.get(column) in (None, "", []):
                keys = list(map(str, row)) if isinstance(row, dict) else []
                raise UserError(f"{where}: no {column!r}. The keys are {', '.join(keys)}; nearest: {nearest(column, keys)}.")
    return found


def digest(named: Mapping[str, Rows]) -> str:
    """The sha256 (hex) of rows by name: what a run's hash holds in place of the folder that they were read from."""
    content = {name: [row for _, row in these] for name, these in sorted(named.items())}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _items(name: str) -> tuple[Item, ...]:
    return items.load(place(name))[0]


def sources() -> Sources:
    """``task:tofu/forget10`` and all the other rows, as data for every verb."""
    return {f"task:{name}": partial(_items, name) for name in PLACES}
