"""``python -m benchmarks``: the same as ``fourreal bench``, with nothing installed."""

import sys

from fourreal_kernels.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
