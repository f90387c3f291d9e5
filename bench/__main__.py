"""`python -m bench`; users start it as bin/bench."""

import sys

from bench.cli import main

sys.exit(main(sys.argv[1:]))
