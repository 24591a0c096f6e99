"""``fourreal tune`` without a GPU: what it refuses, and a run in which the kernels and the clock are made up."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from fourreal_kernels import tuning
from fourreal_kernels.cli import main, tune
from fourreal_kernels.gpu_timing import ColdTimer
from fourreal_kernels.ops.triton_cases import TuneTask
from fourreal_kernels.ops.triton_tuning import Typical, neighbours, tasks

SHIPPED, FAST, TOO_LARGE, EQUAL, WRONG = ({"BLOCK": size, "num_warps": 4} for size in (64, 32, 256, 65, 8))
SECONDS = {64: 2e-4, 32: 1e-4, 65: 1.99e-4, 8: 1e-6}

launched: list[int] = []


@pytest.fixture(autouse=True)
def folders(monkeypatch, tmp_path):
    monkeypatch.setenv("FOURREAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "SHIPPED", tmp_path / "tuned")
    (tmp_path / "tuned").mkdir()
    for kernel in ("first", "second"):
        entry = {"arch": "sm_90", "config": SHIPPED}
        (tmp_path / "tuned" / f"{kernel}.json").write_text(json.dumps({"kernel": kernel, "configs": [entry]}))
    tuning.forget()
    yield
    tuning.forget()


def _task(kernel: str, candidates: list[dict]) -> TuneTask:
    def make():
        def launch(config: dict[str, int]) -> tuple[torch.Tensor]:
            if config == TOO_LARGE:
                raise RuntimeError("out of resource: shared memory")
            launched.append(config["BLOCK"])
            return (torch.full((3,), float("nan") if config == WRONG else 1.0),)

        return launch

    return TuneTask(kernel, (1, 64), (1, 1024), 2, candidates, make)


def _pretended_seconds(run) -> float:
    run()
    return SECONDS[launched[-1]]


@pytest.fixture
def pretended_gpu(monkeypatch):
    """An H200 whose kernels take the seconds that the table above states."""
    operator = SimpleNamespace(tuning_candidates=lambda arch: [
        _task("first", [SHIPPED, TOO_LARGE, WRONG, FAST]), _task("second", [EQUAL]),
    ])
    monkeypatch.setattr(tune, "check_device", torch.device)
    monkeypatch.setattr(tune, "candidate_modules", lambda: {"op": operator})
    monkeypatch.setattr(tune, "ColdTimer", lambda device: SimpleNamespace(seconds=_pretended_seconds))
    monkeypatch.setattr(tune.triton_support, "why_unavailable", lambda: None)
    monkeypatch.setattr(tune.triton_support, "arch_of", lambda device: "sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "device", nullcontext)


def _refused(capsys, *argv: str) -> str:
    assert main(["tune", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("fourreal: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("argv, message", [
    ([], "--device: cuda is not available"),
    (["--device", "cuda:9"], "cuda:9 is not available"),
    (["--device", "cpu"], "got 'cpu', expected cuda or cuda:N"),
    (["--device", "abacus"], "got 'abacus'"),
    (["--speed", "9"], "unrecognized arguments"),
])
def test_what_it_refuses(capsys, argv, message, tmp_path):
    assert message in _refused(capsys, *argv)
    assert not (tmp_path / "cache").exists()


def test_without_triton(capsys, pretended_gpu, monkeypatch):
    monkeypatch.setattr(tune.triton_support, "why_unavailable", lambda: "triton is not installed: pip install triton")
    assert "cannot run here: triton is not installed" in _refused(capsys)


def test_an_unknown_kernel(capsys, pretended_gpu, tmp_path):
    assert "--kernel: got 'third', expected one of first, second" in _refused(capsys, "--kernel", "third")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written(capsys, pretended_gpu, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOURREAL_CACHE", str(tmp_path / "file" / "cache"))
    assert "FOURREAL_CACHE names another" in _refused(capsys)


def test_the_winners_are_kept_and_used(fourreal, pretended_gpu):
    printed = fourreal("tune")
    assert "first, D 1-64, length 1-1024, 16 bit: 100.0 us, 2.00x of the shipped" in printed
    assert "(3 tried, 1 do not fit, 1 WRONG): BLOCK=32 num_warps=4" in printed
    entry = json.loads(tuning.tuned_file("first").read_text())["configs"][0]
    assert entry["config"] == FAST and entry["device"] == "NVIDIA H200" and entry["shipped_microseconds"] == 200
    assert tuning.config("first", arch="sm_90", head_dim=64, length=5) == FAST
    assert tuning.config("first", arch="sm_90", head_dim=65, length=5) == SHIPPED
    # within what repeated measurements differ
    assert tuning.config("second", arch="sm_90", head_dim=64, length=5) == SHIPPED


def test_one_kernel_and_again(fourreal, pretended_gpu):
    for _ in range(2):
        fourreal("tune", "--kernel", "first")
    assert not tuning.tuned_file("second").exists()
    assert len(json.loads(tuning.tuned_file("first").read_text())["configs"]) == 1


def test_saving_keeps_other_buckets():
    entry = {"arch": "sm_90", "head_dim": [1, 64], "config": FAST}
    tuning.save("first", [entry])
    tuning.save("first", [entry | {"arch": "sm_80"}, entry | {"config": SHIPPED}])
    written = json.loads(tuning.tuned_file("first").read_text())["configs"]
    assert [(e["arch"], e["config"]) for e in written] == [("sm_80", FAST), ("sm_90", SHIPPED)]


def test_neighbours():
    found = neighbours({"BLOCK_Q": 64, "DESCRIPTORS": 0, "num_warps": 16, "num_stages": 1})
    assert {"BLOCK_Q": 128, "DESCRIPTORS": 0, "num_warps": 16, "num_stages": 1} in found
    assert {"BLOCK_Q": 32, "DESCRIPTORS": 0, "num_warps": 8, "num_stages": 1} in found
    assert {"BLOCK_Q": 64, "DESCRIPTORS": 1, "num_warps": 16, "num_stages": 1} in found
    assert {"BLOCK_Q": 64, "DESCRIPTORS": 0, "num_warps": 16, "num_stages": 2} in found
    assert len(found) == len({tuple(config.items()) for config in found}) == 6


def test_tasks_are_the_shipped_buckets(tmp_path):
    entries = [{"arch": "sm_90", "head_dim": [65, 128], "config": SHIPPED},
               {"arch": "sm_90", "length": [1, 100], "dtype_bytes": 4, "config": SHIPPED},
               {"arch": "sm_80", "config": SHIPPED}]
    (tmp_path / "tuned" / "third.json").write_text(json.dumps({"kernel": "third", "configs": entries}))
    asked = []

    def workload(head_dim, length, dtype):
        asked.append((head_dim, length, dtype))
        return lambda: (torch.tensor(tuning.config("third", arch="sm_90")["BLOCK"]),)

    first, second = tasks("third", "sm_100", workload, Typical(head_dim=64, length=4608))
    assert (first.head_dim, first.dtype_bytes, second.length, second.dtype_bytes) == ((65, 128), 2, (1, 100), 4)
    assert [task.make()(FAST)[0].item() for task in (first, second)] == [32, 32]
    assert asked == [(128, 4608, torch.bfloat16), (64, 100, torch.float32)]
    assert tasks("absent", "sm_90", workload, Typical()) == []


def test_the_timer_counts_calls():
    calls = []
    timer = ColdTimer(torch.device("cpu"))
    samples = timer.samples(lambda: calls.append("run"), 3, refresh=lambda: calls.append("refresh"))
    assert calls == ["refresh", "run"] * 3 and len(samples) == 3
    assert timer.seconds(lambda: None, 3) >= 0
