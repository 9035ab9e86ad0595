"""What routing costs, as ratios to plain training: the same as `sluicegate bench routing`.

python benchmarks/routing.py [--quick]
"""

import argparse
import json

from sluicegate_papers.benchmarks import routing


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="few repetitions: noisier")
    found = routing.run(quick=options.parse_args().quick)
    print(routing.markdown(found))
    print(json.dumps(routing.summary(found)))


if __name__ == "__main__":
    main()
