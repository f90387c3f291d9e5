"""`python -m precog_runtime`, the same as `precog-runtime`."""

import sys

from precog_runtime.cli import main

sys.exit(main())
