"""One row a probe: what was measured, and nothing for what was not."""

from workers.results import probe_results

FIGURES = {
    "probes": {
        "recall_unseen": {
            "n": 52, "before": 0.9, "after": 0.02, "control": 0.02, "bound": 0.09,
            "limits": [0.06, 0.2], "outcome": "holds",
        },
        "recall_trained": {
            "n": 104, "before": 1.0, "after": 0.0, "control": None, "bound": 0.05,
        },
        "others_kept": {
            "n": 240, "before": 1.0, "after": 0.9, "control": None, "bound": 0.85,
            "limits": [0.98, 0.95], "outcome": "short",
        },
        "knowledge_rank": {
            "n": 5, "before": 1.0, "after": 0.5, "control": 0.5, "bound": 0.9,
            "limits": [0.7], "outcome": "undecided",
        },
    }
}  # fmt: skip


def test_rows_carry_figure_threshold_and_whether_it_holds() -> None:
    rows = {row["probe"]: row for row in probe_results(FIGURES)}
    assert set(rows) == set(FIGURES["probes"])
    assert rows["recall_unseen"]["holds"] is True
    assert rows["recall_unseen"]["threshold"] == "0.06"
    assert (rows["recall_trained"]["holds"], rows["recall_trained"]["threshold"]) == (None, "")
    assert rows["recall_trained"]["control"] == ""
    assert rows["others_kept"]["holds"] is False
    assert (rows["knowledge_rank"]["holds"], rows["knowledge_rank"]["threshold"]) == (None, "0.7")


def test_what_could_not_be_measured_has_no_row() -> None:
    assert probe_results({}) == []
