"""``python -m sluicegate_study``."""

import sys

from sluicegate_study.app import main

if __name__ == "__main__":
    sys.exit(main())
