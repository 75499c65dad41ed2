"""The benchmarks' own parts: bars that can fail, samples that are what they say."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pymerkle
import pytest

from benchmarks import __main__ as main
from benchmarks import (
    audit,
    continual,
    faults,
    faults_injected,
    machines,
    methods,
    peers,
    probes,
    queue,
    report,
    scoring,
    setting,
    table,
    tofu_metrics,
    vllm,
)
from requests_app.audit import verify_log
from rtbf.stack import BASE_DIR
from workers import corpus
from workers.base_models import load_base_model
from workers.rows import Row
from workers.scores import scored_rows
from workers.statistics import Interval

ORDER = (0, 1)


def outcome(*, gated: float = 0.0, alone: float = 0.0, kept: float = 1.0) -> dict[str, object]:
    return {
        "gated": {0: gated, 1: 0.0},
        "alone": {0: 0.0, 1: alone},
        "kept_gated": kept,
        "kept_forced_min": kept,
    }


@pytest.mark.parametrize(
    ("given", "failing"),
    [
        ({}, 0),
        ({"gated": 0.2}, 1),
        ({"alone": 0.2}, 1),
        ({"kept": 0.95}, 1),
        ({"kept": 0.85}, 2),
    ],
)
def test_a_bar_of_the_continual_benchmark_fails_where_its_figure_does(
    given: dict[str, float], failing: int
) -> None:
    limits = {i: Interval(0.0, 0.0, 0.056, 52) for i in ORDER}
    bars = continual.bars(outcome(**given), limits, ORDER)
    assert len(bars) == 4
    assert sum(not bar["holds"] for bar in bars) == failing


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        ({}, 0),
        ({"forks": 1}, 1),
        ({"runs_by_machine": [2]}, 1),
        ({"cases_by_verdict": {"within_thresholds": 39}}, 1),
        ({"cases_by_verdict": {"within_thresholds": 39, "inconclusive": 1}}, 1),
    ],
)
def test_a_bar_of_the_machines_fails_where_the_chain_does(
    broken: dict[str, object], failing: int
) -> None:
    fine = dict.fromkeys(
        ("runs_at_the_same_time_at_most_one", "forks", "off_the_chain", "lost_from_the_release",
         "not_orthogonal", "bundles_that_do_not_verify", "unfinished"), 0,
    )  # fmt: skip
    verdicts = {"within_thresholds": 40}
    figures = {**fine, "runs_by_machine": [1, 1], "cases_by_verdict": verdicts, **broken}
    assert sum(not each["holds"] for each in machines.bars(figures, 40)) == failing


def test_the_matrix_of_the_continual_benchmark_says_who_is_told_again() -> None:
    limits = {i: Interval(0.0, 0.0, 0.056, 52) for i in ORDER}
    ours = {"matrix": [[1.0, 1.0], [0.0, 1.0]], "matrix_every": 1}
    chart = continual.chart_of(ours, limits, ORDER)
    assert chart.title == "After 2 requests person 1 is told again above the limit"
    assert chart.table.rows[1] == ("2", "0.00", "1.00")


def test_kept_questions_are_about_those_alone_who_are_never_erased() -> None:
    people = corpus.people()
    population = setting.Population(None, None, people, len(corpus.ERASABLE))  # type: ignore[arg-type]
    kept = setting.kept_questions(population, each=3)
    names = [person.name for person in people[len(corpus.ERASABLE) :]]
    assert len(kept) == 3 * len(names)
    assert all(any(name in question for name in names) for question, _ in kept)
    assert len({question for question, _ in kept}) == len(kept)


def test_a_method_as_good_in_all_and_better_in_one_respect_is_named() -> None:
    ours = {
        "unseen": 0.0, "people_within_the_controls_bound": 5,
        "kept_ungated": 1.0, "kept_gated": 1.0, "seconds": 9.0,
    }  # fmt: skip
    for seconds, holds in ((8.0, False), (10.0, True)):
        bars = methods.bars({methods.DEFAULT: ours, "npo": {**ours, "seconds": seconds}}, people=5)
        assert [bar["holds"] for bar in bars] == [True, holds]


def test_every_trained_method_stands_in_the_table_with_and_without_surrogates() -> None:
    names = methods.names()
    assert {"twin", "npo", "npo + surrogates", "eco", "uld", "Trainer + PEFT: npo"} <= set(names)
    assert "twin + surrogates" not in names


def test_exit_codes_tell_a_missed_bar_from_a_benchmark_that_could_not_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", "--json", "--no-probes"])

    def outcome(*, holds: bool) -> report.Measured:
        return {"seen": 1}, [{"name": "bar", "value": 1, "limit": 2, "holds": holds}]

    def broken() -> report.Measured:
        raise ValueError("no model")

    def run(measure: object) -> int:
        return report.run("x", "about", measure, cannot_run=(ValueError,))  # type: ignore[arg-type]

    assert run(lambda: outcome(holds=True)) == 0
    assert json.loads(capsys.readouterr().out)["bars"][0]["holds"]
    assert run(lambda: outcome(holds=False)) == 1
    assert run(broken) == 2
    assert run(lambda: ({"could not run": {"flat": "peer not installed"}}, [])) == 2


def test_truth_ratio_and_the_other_means_are_those_of_the_paper() -> None:
    assert tofu_metrics.probability(-6.0, 3) == pytest.approx(math.exp(-2))
    assert tofu_metrics.truth_ratio(0.5, [0.1, 0.3]) == pytest.approx(0.4)
    assert tofu_metrics.truth_ratio(0.0, [0.1]) == math.inf
    assert tofu_metrics.share_of(0.3, [0.1, 0.2]) == pytest.approx(0.5)
    assert tofu_metrics.harmonic_mean([1.0, 0.5]) == pytest.approx(2 / 3)
    assert tofu_metrics.harmonic_mean([1.0, 0.0]) == 0.0


@pytest.mark.django_db
def test_the_log_of_the_audit_benchmark_is_in_order_and_answers_as_its_peer_does(
    tmp_path: Path,
) -> None:
    file, draw = str(tmp_path / "peer.sqlite3"), random.Random(1)  # noqa: S311
    for size in (40, 90):
        audit.fill(file, size)
        assert verify_log().entries == size
        with pymerkle.SqliteTree(file) as tree:
            for kind in audit.KINDS:
                assert min(audit.pair(tree, kind, size, draw, turn=0)) > 0
            assert len(audit.append_pairs(tree, count=2, times=3)) == 3
            assert tree.get_size() == verify_log().entries == size + 8


@pytest.mark.parametrize("failing", ["inclusion", "consistency", "wal", "delete", "bundle", ""])
def test_a_bar_of_the_audit_benchmark_fails_where_its_figure_does(failing: str) -> None:
    def faster(name: str, enough: float) -> dict[str, float]:
        return {"times faster": enough / 2 if name == failing else enough}

    figures = {
        "proofs": {
            "9": {},
            "10": {
                k: {"as the cache fills": faster(k, 50.0)} for k in ("inclusion", "consistency")
            },
        },
        "appends": {"one by one": {j: faster(j, 3.0) for j in ("delete", "wal")}},
        "bundle": {"seconds": 0.5 if failing == "bundle" else 0.4},
    }
    bars = audit.bars(figures)
    assert len(bars) == 5
    assert [bar["name"] for bar in bars if not bar["holds"]] == [
        bar["name"] for bar in bars if failing and failing in bar["name"]
    ]


@pytest.mark.parametrize(
    ("given", "failing"),
    [
        ({}, 0),
        ({"median_ms": 101}, 1),
        ({"queries": 13}, 1),
        ({"grown": 9999}, 1),
        ({"faster": 9}, 1),
    ],
)
def test_a_bar_of_the_queue_benchmark_fails_where_its_figure_does(
    given: dict[str, float], failing: int
) -> None:
    usual = {"median_ms": 40, "queries": 10, "grown": 0, "faster": 200.0} | given
    figures = {
        "pages": {"a": {"median_ms": 1, "queries": 1}, "b": usual},
        "kilobytes_grown": usual["grown"],
        "deep": {"0.5": {"times faster": usual["faster"]}},
    }
    assert sum(not bar["holds"] for bar in queue.bars(figures)) == failing


def test_a_bar_of_the_fault_benchmark_fails_where_something_was_lost_doubled_or_not_tried() -> None:
    fine = {
        "cases": 2, "cases_answered": 2, "lost": [], "doubled": [], "wrong_deadlines": [],
        "log_problems": [], "faults": dict.fromkeys(faults_injected.FAULTS, 1),
    }  # fmt: skip
    assert all(bar["holds"] for bar in faults.bars(fine))
    for change in (
        {"cases_answered": 1}, {"lost": ["ERQ-1"]}, {"doubled": ["ERQ-1"]}, {"faults": {}},
        {"wrong_deadlines": ["ERQ-1"]}, {"log_problems": ["Entry 3 is missing."]},
    ):  # fmt: skip
        assert sum(not bar["holds"] for bar in faults.bars({**fine, **change})) == 1


def result(**changes: object) -> dict[str, object]:
    probe = {"gemm_gflops": 100.0, "copy_gb_per_second": 10.0, "threads": 2}
    return {
        "benchmark": "audit",
        "command": "python -m benchmarks.audit",
        "date": "2026-11-26 02:00 UTC",
        "machine": {"processor": "P", "cores": 2, "system": "S", "python": "3.11"},
        "probes": {"before": probe, "after": probe, "not_quiet": []},
        "seconds": 120.0,
        "figures": {"append": report.compared([1.0, 2.0, 4.0], [2.0, 1.0, 2.0])},
        "bars": [{"name": "append", "value": 0.5, "limit": 3.0, "holds": False}],
        **changes,
    }


def test_the_page_of_the_benchmarks_is_what_the_stored_results_render_to() -> None:
    assert table.PAGE.read_text() == table.page(table.read(table.STORED))


def test_the_page_tells_missed_bars_slower_sides_missing_peers_and_a_restless_machine() -> None:
    found = result()
    probes_of = {**found["probes"], "not_quiet": ["a load of 9"]}  # type: ignore[dict-item]
    figures = {**found["figures"], "could not run": {"flat": "peer not installed"}}  # type: ignore[dict-item]
    page = table.page({"audit": result(probes=probes_of, figures=figures)})
    losing = page.partition("## What loses")[2].partition("## Row by row")[0]
    assert "append: 0.5, the bar is 3." in losing
    assert "append: 0.5 times as fast (0.5 to 2)" in losing
    assert "flat: peer not installed" in losing
    assert "**not quiet** during audit" in page
    assert "| append | 2 s | 2 s | 0.5 | 0.5 to 2 |" in page
    assert "| F1d |" in page


def test_every_benchmark_has_its_minutes_and_the_table_names_none_that_is_not_there() -> None:
    commands = main.runs()
    assert commands.keys() <= main.MINUTES.keys()
    named = {name for row in table.ROWS for name in (*row.runs, *row.also)}
    assert named <= commands.keys() | main.NEEDS.keys()
    assert all((main.FOLDER / f"{name}.py").exists() for name in main.NOT_A_BENCHMARK)
    usual = main.chosen([], commands, everything=False)
    assert sum(main.MINUTES[name] for name in usual) <= 30


@pytest.mark.parametrize(("name", "variable"), main.NEEDS.items())
def test_a_benchmark_is_there_where_what_it_needs_is_named(
    name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, there in (("", False), ("somewhere", True)):
        monkeypatch.setenv(variable, value)
        assert (name in main.runs()) is there


def good_vllm() -> dict[str, Any]:
    part = {"answers": 9, "differing": 0, vllm.LARGEST: 1e-5}
    return {
        "people": 3, "names that vLLM serves": 4, "base": part, "adapters": part, "merged": part,
        "router": {
            "told": report.rate([False] * 9 + [True]),
            "told by the control": report.rate([False] * 9 + [True]),
            "ungated differing": 0, "two people, not refused": 0, "wrong status": [],
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("part", "figure", "value"),
    [
        (None, "names that vLLM serves", 3),
        ("base", "differing", 1),
        ("adapters", vllm.LARGEST, 0.1),
        ("merged", vllm.LARGEST, math.inf),
        ("router", "told", report.rate([True] * 9)),
        ("router", "ungated differing", 1),
        ("router", "two people, not refused", 1),
        ("router", "wrong status", ["a stream: 200 for 400"]),
    ],
)
def test_a_bar_before_vllm_fails_where_its_figure_does(
    part: str | None, figure: str, value: Any
) -> None:
    figures = good_vllm()
    assert all(bar["holds"] for bar in vllm.bars(figures))
    if part is None:
        figures[figure] = value
    else:
        figures[part] = {**figures[part], figure: value}
    assert sum(not bar["holds"] for bar in vllm.bars(figures)) == 1


def test_the_commands_of_a_readme_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("Type:\n     a --b \\\n       --c\n     d --e\n")
    assert vllm.command(tmp_path, "--b") == "a --b --c"
    with pytest.raises(ValueError, match="unpack"):
        vllm.command(tmp_path, "--f")


def test_benchmarks_are_chosen_by_name_and_an_unknown_one_is_told() -> None:
    known = {"audit": (), "gate": (), "zeta": ()}
    assert main.chosen(["zeta", "audit"], known, everything=False) == ["audit", "zeta"]
    assert main.chosen([], known, everything=False) == ["audit"]
    assert set(main.chosen([], known, everything=True)) == known.keys()
    with pytest.raises(SystemExit, match="known: audit, gate, zeta"):
        main.chosen(["gates"], known, everything=False)


def test_a_result_older_than_the_code_is_measured_again(tmp_path: Path) -> None:
    for folder in main.CODE:
        (tmp_path / folder).mkdir()
    code, found = tmp_path / "workers" / "gate.py", tmp_path / "gate.json"
    for file, seconds in ((code, 100), (found, 200)):
        file.touch()
        os.utime(file, (seconds, seconds))
    assert main.is_newer_than_code(found, tmp_path)
    os.utime(code, (300, 300))
    assert not main.is_newer_than_code(found, tmp_path)
    assert not main.is_newer_than_code(tmp_path / "audit.json", tmp_path)


def test_a_peer_that_is_not_installed_or_ends_is_told_apart_from_one_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PYTHON", tmp_path / "python")
    with pytest.raises(peers.NotInstalled, match="make bench-peers"), peers.started("x", threads=1):
        pass
    monkeypatch.setattr(peers, "PYTHON", Path(sys.executable))
    script = tmp_path / "peer.py"
    script.write_text(
        "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n    break\n"
    )
    with peers.started(str(script), threads=1) as peer:
        assert peer.ask(number=3) == {"number": 3}
        peer.process.wait()
        with pytest.raises(peers.NotInstalled):
            peer.ask(number=4)


def test_probes_say_why_a_machine_was_not_quiet() -> None:
    before = {"gemm_gflops": 100.0, "load_average": 0.0}
    quiet = probes.around(before, {"gemm_gflops": 96.0}, since=probes.ticks())
    assert quiet["drift"] == pytest.approx(0.04)
    assert not [reason for reason in quiet["not_quiet"] if "stolen" not in reason]
    restless = probes.around(
        {**before, "load_average": 99.0}, {"gemm_gflops": 50.0}, since=probes.ticks()
    )
    assert len([reason for reason in restless["not_quiet"] if "stolen" not in reason]) == 2


def test_a_loop_as_lm_evals_and_the_shared_scorer_find_the_same_likelihoods() -> None:
    base = load_base_model("demo")
    rows = [
        Row((*range(5, 5 + prompt), *range(40, 40 + told)), told, (False,) * told)
        for prompt, told in ((9, 4), (9, 2), (5, 3))
    ]
    found = [each.total for each in scored_rows(base.model, rows)]
    for batch in (1, 2):
        assert scoring.usual(base, rows, batch) == pytest.approx(found, abs=1e-3)


SLOW = """
import subprocess, sys, time
from benchmarks import report

def measure():
    with subprocess.Popen(["sleep", "300"]) as started:
        try:
            print(started.pid, file=sys.stderr, flush=True)
            time.sleep(300)
        finally:
            started.kill()

report.run("slow", "Waits.", measure, cannot_run=(OSError,))
"""
RUNNER = """
from pathlib import Path
from benchmarks import __main__ as benchmarks
from benchmarks.report import end_on_sigterm
end_on_sigterm()
benchmarks.run(("slow_benchmark", "--no-probes"), Path("result.json"))
"""


def test_a_benchmark_that_is_told_to_end_stops_what_it_started(tmp_path: Path) -> None:
    """The one of several too, which passes it on to the one at work."""
    (tmp_path / "slow_benchmark.py").write_text(SLOW)
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{BASE_DIR}"},
    ) as runner:  # fmt: skip
        assert runner.stderr is not None
        started = int(runner.stderr.readline())
        runner.terminate()
        assert runner.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(started, 0)
