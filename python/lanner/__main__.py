"""`python -m lanner`: the command line."""

import sys

from lanner.cli import main

if __name__ == "__main__":
    sys.exit(main())
