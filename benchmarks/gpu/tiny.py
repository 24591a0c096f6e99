"""``python3 -m benchmarks.gpu.tiny BACKEND [DEVICE]``: every operator once at a tiny size, for the sanitizers."""

from __future__ import annotations

import sys

from .tools import run_tiny


def main() -> int:
    """Print what ran; exit status 0."""
    device = sys.argv[2] if len(sys.argv) > 2 else "cuda"
    ran, refused = run_tiny(sys.argv[1], device)
    print(f"{ran} ran, {len(refused)} refused: {', '.join(refused)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
