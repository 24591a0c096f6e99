"""Configurations of kernels: which entry is taken, and files that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fourreal_kernels import tuning

SMALL, LARGE, OLD = {"BLOCK": 32, "num_warps": 2}, {"BLOCK": 128, "num_warps": 8}, {"BLOCK": 64, "num_warps": 4}
ENTRIES = [
    {"arch": "sm_90", "head_dim": [1, 64], "length": [1, 100], "dtype_bytes": 2, "config": SMALL},
    {"arch": "sm_90", "head_dim": [1, 64], "config": LARGE},
    {"arch": "sm_80", "config": OLD},
    {"arch": "sm_120", "config": {"BLOCK": 16, "num_warps": 4}},
    {"arch": "interpreter", "config": {"BLOCK": 1024, "num_warps": 1}},
]


def _write(file: Path, entries: list) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"kernel": "k", "configs": entries}))
    tuning.forget()


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "SHIPPED", tmp_path / "tuned")
    monkeypatch.setenv("FOURREAL_CACHE", str(tmp_path / "cache"))
    _write(tmp_path / "tuned" / "k.json", ENTRIES)
    yield
    tuning.forget()


@pytest.mark.parametrize("arch, wanted, block", [
    ("sm_90", {"head_dim": 64, "length": 100}, 32),
    ("sm_90", {"head_dim": 64, "length": 101}, 128),
    ("sm_90", {"head_dim": 64, "length": 100, "dtype_bytes": 4}, 128),
    ("sm_80", {"head_dim": 256, "length": 10**9}, 64),
    ("sm_100", {"head_dim": 1}, 128),  # the nearest older chip
    ("sm_86", {}, 16),  # its shared memory is that of sm_120
    ("sm_121", {}, 16),
    ("interpreter", {}, 1024),
])
def test_the_first_entry_that_fits(arch, wanted, block):
    assert tuning.config("k", arch=arch, **wanted)["BLOCK"] == block


@pytest.mark.parametrize("arch, head_dim, kernel", [("sm_90", 65, "k"), ("sm_75", 1, "k"), ("sm_90", 1, "absent")])
def test_nothing_fits(arch, head_dim, kernel):
    with pytest.raises(LookupError, match=f"'{kernel}' ships no configuration for {arch}"):
        tuning.config(kernel, arch=arch, head_dim=head_dim)


def test_the_result_can_be_changed_without_harm():
    tuning.config("k", arch="sm_80")["BLOCK"] = 1
    assert tuning.config("k", arch="sm_80") == OLD


def test_the_users_cache_goes_first_on_its_own_chip():
    _write(tuning.tuned_file("k"), [{"arch": "sm_90", "head_dim": [1, 32], "config": {"BLOCK": 96, "num_warps": 1}}])
    assert tuning.config("k", arch="sm_90", head_dim=32)["BLOCK"] == 96
    assert tuning.config("k", arch="sm_90", head_dim=33)["BLOCK"] == 128
    assert tuning.config("k", arch="sm_100", head_dim=32)["BLOCK"] == 128


def test_a_cache_of_a_kernel_with_other_parameters_is_not_used():
    _write(tuning.tuned_file("k"), [{"arch": "sm_80", "config": {"TILE": 96, "num_warps": 1}}])
    assert tuning.config("k", arch="sm_80") == OLD


@pytest.mark.parametrize("text", [
    "", "[]", "{}", '{"configs": [{}]}', '{"configs": [{"arch": "sm_80", "config": {"BLOCK": "8"}}]}',
    '{"configs": [{"arch": "sm_80", "head_dim": [9, 1], "config": {"BLOCK": 8}}]}',
])
def test_a_damaged_cache_is_named(text):
    file = tuning.tuned_file("k")
    file.parent.mkdir(parents=True)
    file.write_text(text)
    tuning.forget()
    with pytest.raises(ValueError, match="k.json: not a file of kernel configurations.*fourreal tune"):
        tuning.config("k", arch="sm_80")


def test_cache_folder(monkeypatch, tmp_path):
    assert tuning.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("FOURREAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tuning.cache_dir() == tmp_path / "xdg" / "fourreal_kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tuning.cache_dir().parts[-2:] == (".cache", "fourreal_kernels")
