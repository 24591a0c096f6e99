"""The record as a file, and what is reported from it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.record import RecordError, default_name, join_records, read_record, write_record
from benchmarks.report import report_text, write_report
from benchmarks.rules import judge_rules
from benchmarks.sweep import fit_line, sweep_lines
from benchmarks.targets import TARGETS, case_ratio, judge, selected
from fourreal_kernels.charts import Chart, Series

FAST, SLOW = [0.010, 0.011, 0.012], [0.020, 0.022, 0.024]


@pytest.fixture
def record(make_record, make_case):
    """Two sizes: ours twice as fast, and half as fast; the geometric mean is 1."""
    return make_record(make_case(36, FAST, SLOW), make_case(144, SLOW, FAST))


def _outcome(record, label):
    return next(outcome for outcome in judge(record) if outcome.target.label == label)


def test_round_trip(record, tmp_path):
    path = tmp_path / "record.json"
    write_record(record, path)
    assert read_record(path) == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("broken, message", [
    ("{", "not JSON"),
    ("[]", "not a benchmark record"),
    ('{"schema": 99}', "schema 1"),
    ('{"schema": 1, "cases": [{"name": "x"}]}', "cases[].op"),
])
def test_other_files_are_refused(broken, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(broken)
    with pytest.raises(RecordError, match=message.replace("[", r"\[").replace("]", r"\]")):
        read_record(path)


def test_record_states_machine_versions_and_commit(make_record):
    made = make_record()
    assert made["machine"]["cpu"] and made["machine"]["threads"] == 1
    assert {"torch", "numpy", "fourreal_kernels", "compiler"} <= set(made["versions"])
    assert made["commit"] is None or len(made["commit"]) == 40
    assert default_name(made).endswith(f"-1threads-{made['created'][:10]}.json")


def test_joined_records_keep_the_later_measurement(make_record, make_case):
    old, new = make_record(make_case(36, FAST, SLOW), make_case(64, FAST, SLOW)), make_record(make_case(36, SLOW, FAST))
    joined = join_records([old, new])
    assert [case["sizes"]["N"] for case in joined["cases"]] == [36, 64]
    assert joined["cases"][0]["providers"]["ours:cpu"]["samples"] == SLOW
    assert [source["suites"] for source in joined["sources"]] == [["attention"], ["attention"]]
    created = [f"{record['created']}: attention." for record in (old, new)]
    assert all(line in report_text(joined) for line in created)
    other = new | {"machine": new["machine"] | {"cpu": "another"}}
    with pytest.raises(RecordError, match="machine differ"):
        join_records([old, other])


def test_target_is_the_geometric_mean(record):
    outcome = _outcome(record, "tn forward D64 / sdpa stored as lines")
    assert outcome.cases == 2 and outcome.ratio == pytest.approx(1.0)
    assert outcome.verdict == "missed"
    record["cases"].pop()
    assert _outcome(record, "tn forward D64 / sdpa stored as lines").verdict == "met"


def test_targets_of_absent_cases_and_providers(record):
    assert _outcome(record, "vn forward D64 / permute + sdpa + permute").verdict.startswith("not measured")
    record["cases"][1]["providers"]["ours:cpu"] = {"status": "failed", "reason": "wrong result"}
    outcome = _outcome(record, "tn forward D64 / sdpa stored as lines")
    assert outcome.ratio is None and "wrong result" in outcome.verdict


def test_ratio_is_against_the_fastest_peer(make_case):
    case = make_case(36, FAST, SLOW)
    case["providers"]["faster"] = case["providers"]["sdpa, stored as lines"] | {"samples": [0.015, 0.0165, 0.018]}
    assert case_ratio(case, ("sdpa, stored as lines",)) == pytest.approx(2.0)
    assert case_ratio(case, ("sdpa, stored as lines", "faster")) == pytest.approx(1.5)
    assert case_ratio(case, ("absent",)) is None


def test_select():
    case = {"suite": "pointwise", "axes": "v", "sizes": {"N": 576, "D": 64}}
    assert selected(case, {"suite": "pointwise", "axes": ("v", "t"), "D": 64})
    assert not selected(case, {"D": 128}) and not selected(case, {"axes": "t"})


def test_every_target_selects_cases_of_the_suites():
    """A target that no case matches would never be judged."""
    from benchmarks.case import Case
    from benchmarks.measure import _describe
    from benchmarks.suites import SUITES

    cases: list[Case] = [case for suite in SUITES.values() for case in suite.cases(quick=False)]
    described = [_describe(case) for case in cases]
    assert len({case.name for case in cases}) == len(cases), "names of cases repeat"
    for target in TARGETS:
        assert any(selected(case, target.select) for case in described), target.label


def test_rules_name_the_cases_that_break_them(record):
    record["cases"][0]["providers"]["ours:cpu"]["error"] = 1e-3
    peak, error, rms, memory = judge_rules(record)
    assert peak.checked == 1 and len(peak.broken) == 1 and "60 %" in peak.broken[0]
    assert error.checked == 2 and len(error.broken) == 1 and "N36" in error.broken[0]
    assert rms.broken == []
    # 4.8 MB of output and its log-sum-exp; for the one thread 2.1 MB, 1.2 MB of K and V, and what is not known exactly
    assert memory.checked == 2 and memory.broken == []
    record["cases"][0]["providers"]["ours:cpu"]["peak_bytes"] = 11_000_000
    assert "N36: 11.0 MB, allowed 8." in judge_rules(record)[-1].broken[0]


def test_report_shows_wins_and_losses(record):
    text = report_text(record)
    assert "| 2.00 |" in text and "| 0.50 |" in text and "missed" in text
    assert "300 GFLOP/s" in text and "of 1 cases" in text


def test_report_of_failed_providers_has_no_speed(record):
    record["cases"][0]["providers"]["ours:cpu"] = {"status": "failed", "reason": "wrong result: relative error 1e-2"}
    table, _, rest = report_text(record).partition("## Not timed")
    assert "ours:cpu: failed, wrong result" in rest
    rows = [line for line in table.splitlines() if "V8 T8 N36" in line]
    assert rows and not any("ours:cpu" in line for line in rows)


def test_written_report(record, tmp_path, make_case):
    growth = [make_case(n, [n * 1e-3] * 3, SLOW, suite="growth", name=str(n)) for n in (16, 36, 64)]
    record["cases"] += growth
    written = {path.name for path in write_report(record, tmp_path / "new")}
    assert written == {"report.md", "ratio-attention.png", "ratio-growth.png", "roofline.png", "growth.png"}
    assert (tmp_path / "new" / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert "R^2 = 1.0000" in (tmp_path / "new" / "report.md").read_text()


def test_fitted_line():
    line = fit_line([1.0, 2.0, 3.0], [1.5, 2.5, 3.5])
    assert (line.offset, line.seconds_per_flop, line.r_squared) == pytest.approx((0.5, 1.0, 1.0))
    assert fit_line([1.0, 2.0, 3.0], [1.0, 5.0, 1.0]).r_squared < 0.1


def test_no_sweep(record):
    assert sweep_lines(record) == []


@pytest.mark.parametrize("logarithmic", [False, True])
def test_chart_draws_points_where_they_belong(logarithmic):
    """A rising line: its leftmost red pixels are the lowest, and it spans the frame."""
    series = Series("a", [(1, 1), (10, 10), (100, 100)], color="#ff0000")
    pixels = np.asarray(Chart("t", "x", "y", [series], logarithmic, logarithmic).draw())
    rows, columns = np.nonzero((pixels[:, : pixels.shape[1] // 2] == (255, 0, 0)).all(-1))
    assert rows[columns == columns.min()].min() > rows.mean()
    assert columns.max() - columns.min() > 100


def test_stored_record_of_this_repository_is_readable():
    from benchmarks.record import ROOT

    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert report_text(read_record(path)), path
