"""Renders training scenes in a process of its own, until done or until the process that started it ends.

Run as ``python -m fourreal_kernels.cli.render_data`` with a pipe on stdin: one line, the arguments of ``prerender`` as
JSON, and nothing after it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from ..data.prerender import prerender


def _end_with_parent() -> None:
    # The pipe reaches its end when the parent closes it or ends, however it ends. A thread that waits in sys.stdin
    # itself would hold its lock and abort the interpreter's own end.
    os.read(0, 1)
    # Not SIGKILL: Python's resource tracker in this group outlives SIGTERM to remove the semaphores of the pool.
    os.killpg(os.getpgrp(), signal.SIGTERM)


def _main() -> None:
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prerender(settings.pop("out_dir"), settings.pop("seeds"), progress=False, **settings)


if __name__ == "__main__":
    _main()
