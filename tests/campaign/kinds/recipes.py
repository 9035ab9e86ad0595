"""Recipes: experiments in TOML."""

import random
import tomllib
from collections.abc import Iterator
from pathlib import Path

from campaign.bounded import Ended
from campaign.inputs import Case
from campaign.mutate import damaged, damaged_table

_SPLIT = '[arms.a]\nverb="split"\n'
_TRAIN = '[arms.a]\nverb="train"\n'
SPECIAL = [
    *(
        "arms=3\n",
        "[arms]\na=3\n",
        '[arms.a]\nverb="train"\nmodel="@a"\n',
        '[arms.a]\nverb="undo"\nmodel="@b"\n[arms.b]\nverb="undo"\nmodel="@a"\n',
    ),
    *(
        'seeds="x"\n' + _TRAIN,
        "common=3\n" + _TRAIN,
        "attack=3\n" + _TRAIN,
        "name=3\n" + _TRAIN,
        "about=3\n" + _TRAIN,
        "claims=3\n" + _SPLIT,
    ),
    *(
        "pictures=[3]\n" + _SPLIT,
        "claims=[3]\n" + _SPLIT,
        '[arms.a]\nverb=["train"]\n',
        _TRAIN + "method=3\n",
        '[arms.a]\nverb="unlearn"\nmethod=["npo"]\n',
    ),
    *(
        'level="x"\n' + _TRAIN,
        "a=" + "[" * 5000 + "\n",
        "seeds=-1\n" + _TRAIN,
        '[arms."../x"]\nverb="train"\nmodel="arithmetic-tiny"\n',
        'reference=["a"]\n' + _TRAIN,
    ),
    *(
        "title=5\n" + _TRAIN,
        _TRAIN + "steps=-5\n",
        _TRAIN + "lr=nan\n",
        _TRAIN + "batch=0\n",
        'name="../../.."\n' + _TRAIN,
        'name=""\n' + _TRAIN,
        "\x00",
        "",
    ),
    *(
        f'[[claims]]\ntest="{test}"\n{_SPLIT}'
        for test in ("(" * 500 + "1", "-" * 9000 + "a.own_mse > 1", "a.own_mse > 9**9**9", "a.own_mse > 1" + "0" * 5000)
    ),
    *(
        f'[[claims]]\ntest="{test}"\n{_SPLIT}'
        for test in ("a.own_mse > 1" + "0" * 400, "\\u0000", "", "a.own_mse > __import__('os')", "a.own_mse @ 2 > 1")
    ),
]


def cases(rng: random.Random, place: Path) -> Iterator[Case]:
    import tomli_w

    from sluicegate.experiments.recipe import packaged_recipes

    shipped = [path.read_bytes() for path in packaged_recipes().values()]
    tables = [tomllib.loads(data.decode()) for data in shipped]
    number = 0
    while True:
        if number < len(SPECIAL):
            data = SPECIAL[number].encode()
        elif rng.random() < 0.75:
            data = tomli_w.dumps(damaged_table(rng.choice(tables), rng)).encode()
        else:
            data = damaged(rng.choice(shipped), rng)
        (place / "x.toml").write_bytes(data)
        yield Case(["run", "x.toml", "--plan"], f"recipe, {len(data):,} bytes", lambda ended, data=data: _why(data, ended))
        number += 1


def _why(data: bytes, ended: Ended) -> str:
    """Whether TOML's own reader takes it, each arm has a known verb, and every number is of its setting's type and
    finite."""
    import math

    from sluicegate.runs.stage import settings_of, stages

    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return ""
    known = stages()
    for arm in table["arms"].values() if "arms" in table else [table]:
        if arm.get("verb") not in known:
            return ""
        if any(isinstance(value, float) and not math.isfinite(value) for value in arm.values()):
            return ""
        kind = known[arm["verb"]].methods().get(arm.get("method", ""))
        if strange := set(arm) - {"verb", "method", "seed"} - set(settings_of(known[arm["verb"]], kind)):
            return "" if not all(name in _earlier(known[arm["verb"]]) for name in strange) else "settings by earlier names"
    return "every arm has a known verb with settings of its own, and finite numbers"


def _earlier(stage: type) -> dict[str, str]:
    from sluicegate.runs.stage import earlier

    return earlier(stage)
