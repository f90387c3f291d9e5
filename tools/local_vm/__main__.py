"""Runs the command line."""

import sys

from local_vm.cli import main

sys.exit(main(sys.argv[1:]))
