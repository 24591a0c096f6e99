"""``python -m fourreal_kernels.cli``."""

import os
import sys

from . import INTERRUPTED, main

status = main()
if status == INTERRUPTED:
    # Python's own end would replace the status by the signal if the interrupt came inside of exec() of a string, as
    # dataclasses use it when they are imported.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
sys.exit(status)
