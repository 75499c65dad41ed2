"""One row a probe: what was measured, and nothing for what was not."""

from workers.results import probe_results

PROTOCOL = {
    "thresholds": {
        "others_kept": "0.98",
        "perplexity_ratio": "1.02",
        "unseen": {"rule": "control_upper95"},
    },
    "samples": {"unseen": 50},
}
RECALL = {"n": 50, "before": 0.9, "after": 0.02, "after_upper95": 0.09, "control": 0.02}
FIGURES = {
    "erased": {
        "trained": {**RECALL, "control_upper95": 0.09},
        "unseen": {**RECALL, "control_upper95": 0.09},
    },
    "others": {"n": 240, "before": 0.95, "after": 0.9, "kept": 0.9 / 0.95},
    "perplexity": {"n": 60, "before": 4.5, "after": 4.5, "ratio": 1.0},
    "knowledge_rank": {"not_measured": "no values of the same kind"},
}


def test_rows_carry_figure_threshold_and_whether_it_holds() -> None:
    rows = {row["probe"]: row for row in probe_results(FIGURES, PROTOCOL)}
    assert set(rows) == {"recall_trained", "recall_unseen", "others_kept", "perplexity"}
    assert rows["recall_unseen"]["holds"] is True
    assert rows["recall_unseen"]["threshold"] == "0.09"
    assert rows["recall_trained"]["holds"] is None
    assert rows["recall_trained"]["threshold"] == ""
    assert rows["others_kept"]["holds"] is False
    assert rows["perplexity"]["after"] == "4.5"


def test_what_could_not_be_measured_has_no_row() -> None:
    assert probe_results({}, PROTOCOL) == []
