"""The configurations that the package ships: every file can be read, and every chip and size has its entry."""

from __future__ import annotations

import json

import pytest

import fourreal_kernels  # noqa: F401  (registers the operators)
from fourreal_kernels import tuning
from fourreal_kernels.ops.triton_cases import candidate_modules

KERNELS = sorted(file.stem for file in tuning.SHIPPED.glob("*.json"))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", ["interpreter", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120"])
def test_every_chip_has_a_configuration_within_the_ranges(kernel, arch, monkeypatch, tmp_path):
    monkeypatch.setenv("FOURREAL_CACHE", str(tmp_path))
    tuning.forget()
    document = json.loads((tuning.SHIPPED / f"{kernel}.json").read_text())
    assert document["kernel"] == kernel
    entries = document["configs"]
    bounds = {
        name: sorted({bound for entry in entries for bound in entry.get(name, ())}) or [1]
        for name in ("head_dim", "length")
    }
    sizes = sorted({entry.get("dtype_bytes", 2) for entry in entries})
    for dtype_bytes in sizes:
        for head_dim in bounds["head_dim"]:
            for length in bounds["length"]:
                found = tuning.config(kernel, arch=arch, head_dim=head_dim, length=length, dtype_bytes=dtype_bytes)
                assert found["num_warps"] in (1, 2, 4, 8, 16) and found["num_stages"] >= 1
    tuning.forget()


def test_every_kernel_can_be_tuned():
    tasks = [task for module in candidate_modules().values() for task in module.tuning_candidates("sm_90")]
    assert {task.kernel for task in tasks} == set(KERNELS)
    assert all(task.candidates for task in tasks)
