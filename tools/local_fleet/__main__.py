"""Runs the command line: ``python -m local_fleet``."""

import sys

from local_fleet.cli import main

sys.exit(main(sys.argv[1:]))
