"""``python -m tests.campaign inputs|kills|races N [--seed S] [--json]``."""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> int:
    """Run one campaign; the exit status is 1 where something was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("campaign", choices=["inputs", "kills", "races"])
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", help="only these kinds of inputs")
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    parser.add_argument("--keep", default="", help="a folder that gets what failed")
    parser.add_argument("--json", action="store_true", help="print the counts as the last line")
    given = parser.parse_args()
    module = import_module(f"tests.campaign.{given.campaign}")
    more = {"kinds": given.kinds, "workers": given.workers, "keep": given.keep} if given.campaign == "inputs" else {}
    counts = module.run_campaign(given.n, given.seed, **more)
    if given.json:
        print(json.dumps(counts))
    return int(any(counts.get(name, 0) for name in ("broken", "tracebacks", "hangs", "memory")))


if __name__ == "__main__":
    sys.exit(main())
