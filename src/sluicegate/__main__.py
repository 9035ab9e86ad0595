"""``python -m sluicegate``, which is how a launcher such as torchrun starts the command line."""

import sys

from sluicegate.app import main

if __name__ == "__main__":
    sys.exit(main())
