"""``make gpu-check`` and ``make gpu-bench`` without a GPU: every block rehearsed, and what happens when one fails."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.case import Provider
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import check_attention, document, fa3, parent, stability, tiny, tools
from benchmarks.gpu.block import Absent, Block, Settings
from benchmarks.gpu.child import GPU_FAILED, run_block
from benchmarks.gpu.cold import ColdSampler
from benchmarks.gpu.document import run_and_write
from benchmarks.gpu.runs import BENCH, CHECK, RUNS
from benchmarks.gpu.targets import TARGETS, judge_gpu
from benchmarks.record import check_record, read_record
from cuda_on_host import host_library, run_backends_on_host, shim_sources
from fourreal_kernels import gpu_timing

REHEARSAL = Settings("cpu", ("reference",), small=True)
MOST_SECONDS = 540
ROOT = Path(__file__).parents[2]


def _lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("block", [b for b in (*CHECK, *BENCH) if not b.gpu_only], ids=lambda b: b.name)
def test_every_block_is_rehearsed(block, tmp_path):
    path = tmp_path / "results"
    assert run_block(block, REHEARSAL, path, 0, 1, 0) == 0
    results = _lines(path)
    assert results and {result["status"] for result in results} == {"ok"}, results
    for result in results:
        providers = result.get("case", {}).get("providers", {})
        assert not providers or providers["ours:reference"]["p50"] > 0


@pytest.mark.parametrize("kind, name", [("check", "norm and rope"), ("check", "exchange"), ("check", "repeats"),
                                        ("bench", "norm and rope"), ("bench", "exchange")])
def test_the_cuda_backends_are_rehearsed_on_the_host(kind, name, tmp_path, monkeypatch):
    """Right wherever a CUDA kernel takes the call, refused with a reason where there is none."""
    run_backends_on_host(monkeypatch, host_library(shim_sources()))
    block = next(block for block in RUNS[kind] if block.name == name)
    path = tmp_path / "results"
    assert run_block(block, Settings("cpu", ("cuda",), small=True), path, 0, 1, 0) == 0
    results = _lines(path)
    outcomes = [result["case"]["providers"]["ours:cuda"] for result in results] if kind == "bench" else results
    assert {outcome["status"] for outcome in outcomes} <= {"ok", "absent"}, outcomes
    assert any(outcome["status"] == "ok" for outcome in outcomes)
    assert all(outcome["reason"] for outcome in outcomes if outcome["status"] == "absent")


def test_the_limits():
    """Blocks that together may take longer than the run have a least time each: none is starved by one before it."""
    assert command._SECONDS < MOST_SECONDS
    assert len({block.name for block in CHECK}) == len(CHECK) and len({block.name for block in BENCH}) == len(BENCH)
    assert all(block.seconds <= command._SECONDS / 2 for blocks in RUNS.values() for block in blocks)


def _block(*jobs, seconds: float = 30, **options) -> Block:
    return Block("toy", seconds, lambda settings: jobs, **options)


def _raise(error: Exception):
    raise error


def test_the_status_of_a_job(tmp_path):
    path = tmp_path / "results"
    block = _block(
        ("right", lambda: {"error": 0.5, "ratios": [float("nan"), 1.0], "dtype": torch.float16}),
        ("wrong", lambda: _raise(AssertionError("error 1 exceeds 0"))),
        ("refused", lambda: _raise(NotImplementedError("no\nsuch form"))),
        ("absent", lambda: _raise(Absent("nvcc"))),
        ("broken", lambda: _raise(KeyError("x"))),
        ("gpu", lambda: _raise(RuntimeError("CUDA error: an illegal memory access was encountered"))),
        ("never", lambda: {}),
    )
    assert run_block(block, REHEARSAL, path, 0, 1, 0) == GPU_FAILED
    results = {result["name"]: result for result in _lines(path)}
    assert {name: result["status"] for name, result in results.items()} == {
        "right": "ok", "wrong": "failed", "refused": "absent", "absent": "absent", "broken": "error", "gpu": "error"
    }
    assert results["right"] | {"seconds": 0} == {
        "name": "right", "status": "ok", "error": 0.5, "ratios": ["nan", 1.0], "dtype": "torch.float16", "seconds": 0
    }
    assert results["refused"]["reason"] == "no such form"
    assert "_raise" in results["broken"]["where"]
    assert run_block(block, REHEARSAL, path, 0, 1, 6) == 0
    assert _lines(path)[-1]["name"] == "never"


def test_shards_share_the_jobs(tmp_path):
    block = _block(*((str(index), dict) for index in range(5)))
    for shard in range(2):
        run_block(block, REHEARSAL, tmp_path / str(shard), shard, 2, 0)
    assert [[line["name"] for line in _lines(tmp_path / name)] for name in "01"] == [["0", "2", "4"], ["1", "3"]]


ABSENT = "print('{\"name\": \"one\", \"status\": \"absent\", \"reason\": \"refused\"}', file=open(results, 'a'))"
WRITE = "print('{\"name\": \"one\", \"status\": \"ok\"}', file=open(results, 'a'))"


@pytest.mark.parametrize("code, status, jobs, reason", [
    (WRITE, "ok", 1, ""),
    (ABSENT, "absent", 1, "refused"),
    (f"{WRITE}; {ABSENT}", "ok", 2, ""),
    ("pass", "absent", 0, "it has no jobs"),
    (f"{WRITE}; import time; time.sleep(60)", "stopped", 1, "at its limit"),
    (f"{WRITE}; print('last words'); raise SystemExit(3)", "crashed", 1, "exit status 3: last words"),
    (f"{WRITE}; raise SystemExit(0 if skip == 2 else {GPU_FAILED})", "ok", 3, ""),
    (f"{WRITE}; raise SystemExit({GPU_FAILED})", "crashed", 4, "the GPU failed in 4 processes"),
])
def test_a_block_in_a_process(code, status, jobs, reason, tmp_path, monkeypatch):
    def fake(part, results, skip):
        return [sys.executable, "-c", f"results, skip = {str(results)!r}, {skip}\n{code}"]

    monkeypatch.setattr(parent, "_command", fake)
    monkeypatch.setattr(parent, "_LEAST_SECONDS", 0.1)
    kept: list[dict] = []
    limit = 4 if status == "stopped" else 30
    blocks = [_block(seconds=limit), _block(gpu_only=True)]
    parent.run_blocks("toy", blocks, REHEARSAL, 60, tmp_path / "log", lambda done: kept.append(done[-1]))
    outcome, absent = kept
    assert (outcome["status"], len(outcome["jobs"])) == (status, jobs)
    assert reason in outcome.get("reason", "") and absent["status"] == "absent"


def test_no_time_is_left(tmp_path):
    kept: list[dict] = []
    parent.run_blocks("toy", [_block()], REHEARSAL, 1, tmp_path / "log", kept.extend)
    assert kept[0]["status"] == "not run" and kept[0]["reason"] == "no time was left"


@pytest.mark.parametrize("small, optional, status", [(True, False, 0), (False, True, 0), (False, False, 1)])
def test_a_block_that_did_not_run_is_not_green_on_a_gpu(small, optional, status, tmp_path, monkeypatch):
    absent = {"name": "toy", "status": "absent", "reason": "refused", "jobs": []}
    monkeypatch.setattr(document, "run_blocks", lambda *arguments: arguments[-1]([absent]))
    settings = Settings("cpu", ("triton",), small=small)
    assert run_and_write("check", [_block(optional=optional)], settings, 1, tmp_path) == status


def test_from_the_command_to_the_document(tmp_path):
    """The whole way with processes of its own, for one block of each run."""
    for kind, name in (("check", "machine"), ("bench", "norm and rope")):
        block = next(block for block in RUNS[kind] if block.name == name)
        assert run_and_write(kind, [block], REHEARSAL, 200, tmp_path) == 0
    written = sorted(tmp_path.glob("*.json"), key=lambda path: not path.name.startswith("gpu-check"))
    check, bench = map(read_record, written)
    assert check["settings"]["kind"] == "gpu-check" and check["blocks"][0]["jobs"][0]["backends"]["axis_attention"]
    check_record(bench, "bench")
    assert bench["cases"][0]["op"] == "qk_norm_rope_" and "case" not in bench["blocks"][0]["jobs"][0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bad_arguments(monkeypatch, capsys, tmp_path):
    for argv, message in ((["check"], "finds no GPU"), (["bench", "--only", "speed"], "--only: got speed")):
        monkeypatch.setattr(sys, "argv", ["gpu", *argv, "--out", str(tmp_path)])
        assert command.main() == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_listing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "bench", "--list"])
    assert command.main() == 0
    assert "flex attention (at most" in capsys.readouterr().out


def test_tools(monkeypatch, tmp_path):
    assert tools._checked([sys.executable, "-c", "print('well')"], 30) == "well\n"
    with pytest.raises(AssertionError, match="exit status 3: badly"):
        tools._checked([sys.executable, "-c", "print('badly'); raise SystemExit(3)"], 30)
    with pytest.raises(AssertionError, match="not done after 1 s"):
        tools._checked([sys.executable, "-c", "import time; time.sleep(30)"], 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "_CUDA", tmp_path)
    for job in (tools._build, lambda: tools._sanitized("triton", "memcheck")):
        with pytest.raises(Absent, match="is not on this machine"):
            job()


def test_the_sanitizer_reads_the_summary(monkeypatch, tmp_path):
    sanitizer = tmp_path / "compute-sanitizer"
    sanitizer.write_text("#!/bin/sh\necho '========= ERROR SUMMARY: 0 errors'\n")
    sanitizer.chmod(0o755)
    monkeypatch.setattr(tools, "_CUDA", tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert tools._sanitized("triton", "memcheck") == {"summary": "ERROR SUMMARY: 0 errors"}


def test_every_operator_at_a_tiny_size(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tiny", "reference", "cpu"])
    assert tiny.main() == 0
    assert "31 ran, 0 refused" in capsys.readouterr().out


def test_operators_that_the_gpu_blocks_call(monkeypatch):
    """The names of the jobs that only a GPU runs can at least be listed, and their programs are there."""
    settings = Settings("cuda", ("triton", "cuda"))
    for block in (*CHECK, *BENCH):
        if block.gpu_only:
            assert [name for name, _ in block.jobs(settings)]
    assert any("2^31" in name for name, _ in check_attention.jobs(settings))
    assert len(list(check_attention._cases())) == len(set(check_attention._cases()))


def test_elements_far_apart():
    check_attention._far_apart("reference")


def test_flash_attention_3_needs_its_library(monkeypatch):
    monkeypatch.delenv("FOURREAL_FA3", raising=False)
    (name, job), *_ = fa3.jobs(REHEARSAL)
    assert name == "8 lines of 512 keys, H 16 D 64"
    with pytest.raises(Absent, match="FOURREAL_FA3 names no library"):
        job()


class _JaxArray(np.ndarray):
    """What the peer uses of a JAX array."""

    def block_until_ready(self):
        return self


def test_flash_attention_3_through_a_pretended_jax(monkeypatch):
    """A softmax in numpy in place of the library: shapes, attributes and the error are those of the real call."""

    def attention(q, k, v, softmax_scale, is_causal, window_size_left, window_size_right):
        assert not is_causal and window_size_left == window_size_right == -1
        q, k, v = (torch.from_numpy(np.asarray(x)).transpose(1, 2) for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=float(softmax_scale)).transpose(1, 2)
        return out.numpy().view(_JaxArray), None, None, None

    def ffi_call(name, results):
        assert [result.shape for result in results] == [(2, 5, 3, 8), (2, 3, 5), (1, 1, 1, 1), (1, 1, 1)]
        return attention

    jax = SimpleNamespace(
        ffi=SimpleNamespace(ffi_call=ffi_call, pycapsule=lambda x: x, register_ffi_target=lambda *a, **k: None),
        ShapeDtypeStruct=lambda shape, dtype: SimpleNamespace(shape=shape), jit=lambda function: function,
        numpy=SimpleNamespace(bfloat16=np.float32, float32=np.float32),
        random=SimpleNamespace(key=np.random.default_rng, normal=lambda key, shape, dtype: key.normal(
            size=shape).astype(dtype).view(_JaxArray)),
        nn=SimpleNamespace(softmax=lambda x: torch.from_numpy(np.asarray(x)).softmax(-1).numpy()),
    )
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setattr(fa3, "_library", lambda: SimpleNamespace(dew_flash3_mha_fwd=None))
    found = fa3._measure(2, 5, 3, 8)
    assert found["error"] < 1e-5 and found["seconds_per_call"] > 0


class _Graph:
    """A CUDA graph that replays nothing."""

    def replay(self) -> None:
        pass


@pytest.fixture
def pretended_cuda(monkeypatch):
    stream = SimpleNamespace(wait_stream=lambda other: None)
    event = SimpleNamespace(record=lambda: None, elapsed_time=lambda end: 2.0)
    pretended = {
        "Stream": lambda: stream, "current_stream": lambda: stream, "stream": nullcontext, "CUDAGraph": _Graph,
        "graph": nullcontext, "Event": lambda enable_timing: event, "synchronize": lambda device: None,
        "_sleep": lambda cycles: None,
    }
    for name, value in pretended.items():
        monkeypatch.setattr(torch.cuda, name, value)


def test_a_replay_that_does_nothing_is_seen(pretended_cuda):
    operation = next(stability.operations())
    with pytest.raises(AssertionError, match="the replay differs"):
        stability._replay(operation, "reference", REHEARSAL)


def test_timing_by_events(pretended_cuda):
    timer = gpu_timing.ColdTimer(torch.device("cpu"))
    timer._cuda, timer._flushed = True, torch.ones(8)
    calls = []
    assert timer.samples(lambda: calls.append("run"), 2, refresh=lambda: calls.append("refresh")) == [2e-3, 2e-3]
    assert calls == ["refresh", "run"] * 2 and not timer._flushed.any()


def test_cold_samples_alternate():
    calls: list[str] = []
    providers = [Provider(name, lambda name=name: calls.append(name)) for name in "ab"]
    samples = ColdSampler(torch.device("cpu"), 3)(providers)
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3}
    assert "".join(calls) == "aabb" + "abbaab"


def test_targets(make_record):
    def case(**changes):
        provider = {"status": "ok", "samples": [1.0, 1.0], "copy_percent": 85.0}
        return {
            "name": "x", "suite": "gpu_norm_rope", "op": "qk_norm_rope_", "axes": "", "variant": "",
            "sizes": {"N": 576}, "dtype": "bfloat16", "direction": "forward", "output": "in place",
            "main_peer": "eager", "providers": {"ours:triton": provider},
        } | changes

    flex = case(suite="gpu_flex", axes="vn|tn", providers={
        "ours:triton": {"status": "ok", "samples": [1.0, 1.0]},
        "flex_attention, compiled": {"status": "ok", "samples": [1.1, 1.1]},
    })
    lines = judge_gpu(make_record(case(), flex))
    assert len(lines) == len(TARGETS)
    assert "qk_norm_rope_, percent of the copy, triton: at least 80: met, 85 to 85 in 1 cases" in lines
    assert any("D 128 / flex_attention, triton: at least 1.2: missed, 1.1" in line for line in lines)
    assert sum("not measured" in line for line in lines) == len(TARGETS) - 2
    slower = {"status": "ok", "samples": [1.0, 1.0], "copy_percent": 84.0}
    both = case(providers=case()["providers"] | {"ours:cuda": slower})
    lines = judge_gpu(make_record(both))
    assert "qk_norm_rope_, percent of the copy, cuda: at least 85: missed, 84 to 84 in 1 cases" in lines
    assert "qk_norm_rope_, percent of the copy, triton: at least 80: met, 85 to 85 in 1 cases" in lines


def test_the_makefile_calls_them():
    for target in ("check", "bench"):
        shown = subprocess.run(["make", "-n", f"gpu-{target}"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert f"python3 -m benchmarks.gpu {target}" in shown.stdout
