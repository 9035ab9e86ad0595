"""How fast orthogonal twins come, and how many: the same as `sluicegate bench steering`. Needs `sluicegate fetch smollm2-135m`.

python benchmarks/steering.py [--quick]
"""

import argparse
import json

from sluicegate_papers.benchmarks import steering


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="few twins: for a first look")
    found = steering.run(quick=options.parse_args().quick)
    print(steering.markdown(found))
    print(json.dumps(steering.summary(found)))


if __name__ == "__main__":
    main()
