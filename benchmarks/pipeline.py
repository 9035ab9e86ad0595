"""The demo as it runs against every stage one after the other, and its share of matrix products: as `sluicegate bench pipeline`.

python benchmarks/pipeline.py [--quick]
"""

import argparse
import json

from sluicegate_papers.benchmarks import pipeline


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a few short arms and one seed: noisier")
    found = pipeline.run(quick=options.parse_args().quick)
    print(pipeline.markdown(found))
    print(json.dumps(pipeline.summary(found)))


if __name__ == "__main__":  # its worker processes import this file
    main()
