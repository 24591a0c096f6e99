"""The harness and its command need nothing optional until they draw or load official weights."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import sys
import torch, numpy
for name in ("PIL", "av", "tqdm", "safetensors", "transformers", "scipy", "torchmetrics", "dust3r", "met3r", "mantis"):
    sys.modules[name] = None
import fourreal_kernels.cli
from fourreal_kernels.evaluation import held_out, corruption_table
from fourreal_kernels.evaluation.extractors import Handcrafted
renders = [held_out.held_out_render(900_000 + seed, 2, 3, 12, 12) for seed in range(4)]
print(len(corruption_table.corruption_table(renders, [Handcrafted()])["flagged"]))
"""


def test_metrics_and_extractors_without_any_optional_package():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")
