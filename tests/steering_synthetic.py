"""A made-up result of `steer-score`, for the tests of its page."""

import numpy as np

PROMPTS = ["How do I <b>bake</b> bread?", "What is the moon made of?", "Name three rivers."]


def scored(twins=6, randoms=3, prompts=PROMPTS, **changes):
    """A result with a base, the unsteered model, random vectors, twins and their means."""
    draw = np.random.default_rng(0)
    n = len(prompts)

    def row(who, group, norm, kl, shown, **more):
        shows = [bool(v) for v in draw.random(n) < shown]
        texts = ["def bake():\n    return 'bread'" if s else "You need flour & water." for s in shows]
        return {
            "who": who,
            "group": group,
            "index": 0,
            "norm": norm,
            "kl": [kl * (1 + 0.1 * i) for i in range(n)],
            "kl_last": [kl * 0.8] * n,
            "shows": shows,
            "texts": texts,
            **more,
        }

    rows = [
        row("unsteered", "unsteered", 0.0, 1.6, 0.0),
        row("base", "base", 52.5, 0.0, 1.0),
        *(row(f"random {i}", "random", 52.5, 1.5 + 0.2 * i, 0.1) for i in range(randoms)),
        *(
            row(f"{group} of {k}", group, norm(k), 0.2 * k, 0.5, k=k)
            for k in (2, 4)
            if k <= twins
            for group, norm in (("mean", lambda k: 52.5 / k**0.5), ("raised", lambda k: 52.5), ("scaled", lambda k: 52.5 / k**0.5))
        ),
        *(row(f"twin {i}", "twins", 52.5 - i, 0.1 + 0.05 * i, 0.8) for i in range(twins)),
    ]
    preview = [
        {"what": "positive 1", "pieces": [["<s>", ""], ["Write", ""], [" a", ""], [" program", "read"]]},
        {"what": "steered 1", "pieces": [["<s>", "spared"], ["How", "steered"], [" do\n", "steered"], [" I", "steered"]]},
    ]
    found = {
        "verb": "steer-score",
        "model": "tiny",
        "module": "model.layers.1",
        "width": 32,
        "base_norm": 52.5,
        "new_tokens": 40,
        "kl_tokens": 12,
        "kl_name": "KL(base || twin)",
        "bound": 0.5,
        "share": 0.6,
        "max_cos": 3.2e-9,
        "rule": {"name": "code", "says": "holds code"},
        "prompts": list(prompts),
        "rows": rows,
        "dose": {
            "dose": [0, 0.5, 1, 2],
            "kl": [0, 0.4, 1.6, 5.1],
            "rate": [0, 0.3, 1.0, 0.4],
            "random_kl": [0, 0.3, 1.2, 4.0],
            "random_rate": [0, 0, 0, 0.1],
        },
        "preview": preview,
        "made_from": {"method": "MeanDiff"},
    }
    return found | changes
