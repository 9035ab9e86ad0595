"""Campaigns against the library, on what it does with files: ``python -m tests.campaign kills|races|inputs N``.

kills: commands killed at any moment and run again; the files must be those of an undisturbed run. races: several
processes that do the same, or the opposite, at once. inputs: files as they should not be. Prints a table, and with
``--json`` one line of JSON at the end. Exit status 1 where anything was broken.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

VERBS = {
    "kills": "commands killed at any moment, and run again",
    "races": "commands that several processes run at once",
    "inputs": "files as they should not be",
}


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("verb", choices=VERBS, help="\n".join(f"{verb}: {what}" for verb, what in VERBS.items()))
    options.add_argument("n", type=int, help="how many")
    options.add_argument("--seed", type=int, default=0, help="what they are drawn from")
    options.add_argument("--kinds", nargs="*", help="of inputs: only these kinds")
    options.add_argument("--workers", type=int, default=2, help="of inputs: processes side by side")
    options.add_argument("--keep", default="", help="of inputs: a folder that gets what failed")
    options.add_argument("--json", action="store_true", help="print the sums as the last line")
    asked = options.parse_args()
    # Before torch is imported: the processes that are forked, and those that they start, take one thread each.
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # Of killed children semaphores are left, which Python removes at the end; it need not say so after the last line.
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    more = {"kinds": asked.kinds, "workers": asked.workers, "keep": asked.keep} if asked.verb == "inputs" else {}
    found = importlib.import_module(f"campaign.{asked.verb}").run(asked.n, asked.seed, **more)
    kinds = found.pop("kinds", {})
    rows = {**kinds, "all": found}
    wide = max(map(len, rows))
    print("  ".join((f"{'kind':<{wide}}", *found)))
    for name, row in rows.items():
        print("  ".join((f"{name:<{wide}}", *(f"{row[key]:>{len(key)}}" for key in found))))
    if asked.json:
        print(json.dumps(found))
    return int(bool(found["broken"] or found["tracebacks"] or found["hangs"] or found.get("memory")))


if __name__ == "__main__":
    sys.exit(main())
