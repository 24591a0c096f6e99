"""Renders training scenes in a process of its own, until done or until the process that started it ends.

Run as ``python -m fourreal_kernels.cli.render_data SETTINGS``, with the arguments of ``prerender`` as JSON and a pipe
on stdin that nobody writes to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from ..data.prerender import prerender


def _end_with_parent() -> None:
    # The pipe reaches its end when the parent closes it or ends, however it ends.
    sys.stdin.buffer.read()
    # Not SIGKILL: Python's resource tracker in this group outlives SIGTERM to remove the semaphores of the pool.
    os.killpg(os.getpgrp(), signal.SIGTERM)


def _main() -> None:
    settings = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prerender(settings.pop("out_dir"), settings.pop("seeds"), progress=False, **settings)


if __name__ == "__main__":
    _main()
