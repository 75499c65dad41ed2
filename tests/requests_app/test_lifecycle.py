"""All tables of moves, pair by pair."""

from itertools import product

import pytest

from requests_app.lifecycle import (
    CASE_MOVES,
    CONSOLIDATION_MOVES,
    EXPORT_MOVES,
    NOTICE_MOVES,
    RECHECK_MOVES,
    RUN_MOVES,
    CaseStatus,
    ConsolidationState,
    ExportState,
    MoveNotAllowed,
    NoticeState,
    RecheckState,
    RunState,
    first_status,
    move_case,
    move_consolidation,
    move_export,
    move_notice,
    move_recheck,
    move_run,
)
from requests_app.models import (
    Case,
    Consolidation,
    ErasureRun,
    ExportJob,
    Recheck,
    RecipientNotice,
)


@pytest.mark.parametrize("start, to", [*product(CaseStatus, CaseStatus)])
def test_every_pair_of_case_statuses(start: CaseStatus, to: CaseStatus) -> None:
    case = Case(status=start)
    if to in CASE_MOVES[start]:
        move_case(case, to)
        assert case.status == to
    else:
        with pytest.raises(MoveNotAllowed):
            move_case(case, to)
        assert case.status == start


@pytest.mark.parametrize("start, to", [*product(RunState, RunState)])
def test_every_pair_of_run_states(start: RunState, to: RunState) -> None:
    run = ErasureRun(state=start)
    if to in RUN_MOVES[start]:
        move_run(run, to)
        assert run.state == to
    else:
        with pytest.raises(MoveNotAllowed):
            move_run(run, to)
        assert run.state == start


@pytest.mark.parametrize("start, to", [*product(ConsolidationState, ConsolidationState)])
def test_every_pair_of_consolidation_states(
    start: ConsolidationState, to: ConsolidationState
) -> None:
    row = Consolidation(state=start)
    if to in CONSOLIDATION_MOVES[start]:
        move_consolidation(row, to)
        assert row.state == to
    else:
        with pytest.raises(MoveNotAllowed):
            move_consolidation(row, to)
        assert row.state == start


@pytest.mark.parametrize("start, to", [*product(RecheckState, RecheckState)])
def test_every_pair_of_recheck_states(start: RecheckState, to: RecheckState) -> None:
    recheck = Recheck(state=start)
    if to in RECHECK_MOVES[start]:
        move_recheck(recheck, to)
        assert recheck.state == to
    else:
        with pytest.raises(MoveNotAllowed):
            move_recheck(recheck, to)
        assert recheck.state == start


@pytest.mark.parametrize("start, to", [*product(ExportState, ExportState)])
def test_every_pair_of_export_states(start: ExportState, to: ExportState) -> None:
    job = ExportJob(state=start)
    if to in EXPORT_MOVES[start]:
        move_export(job, to)
        assert job.state == to
    else:
        with pytest.raises(MoveNotAllowed):
            move_export(job, to)
        assert job.state == start


@pytest.mark.parametrize("start, to", [*product(NoticeState, NoticeState)])
def test_every_pair_of_notice_states(start: NoticeState, to: NoticeState) -> None:
    notice = RecipientNotice(state=start)
    if to in NOTICE_MOVES[start]:
        move_notice(notice, to)
        assert notice.state == to
    else:
        with pytest.raises(MoveNotAllowed):
            move_notice(notice, to)
        assert notice.state == start


def test_all_tables_name_every_status() -> None:
    assert set(NOTICE_MOVES) == set(NoticeState)
    assert set(CASE_MOVES) == set(CaseStatus)
    assert set(RUN_MOVES) == set(RunState)
    assert set(RECHECK_MOVES) == set(RecheckState)
    assert set(EXPORT_MOVES) == set(ExportState)


def reachable(without: CaseStatus) -> set[CaseStatus]:
    found, todo = {first_status(mailbox_unconfirmed=True)}, [CaseStatus.AWAITING_CONFIRMATION]
    while todo:
        for to in CASE_MOVES[todo.pop()] - found - {without}:
            found.add(to)
            todo.append(to)
    return found


def test_an_answered_case_is_reopened_and_never_executes_without_a_review_of_the_evidence() -> None:
    answered = (CaseStatus.RESPONDING, CaseStatus.COMPLETED)
    assert all(CaseStatus.EVIDENCE_REVIEW in CASE_MOVES[status] for status in answered)
    assert not any(CaseStatus.EXECUTING in CASE_MOVES[status] for status in answered)
    assert CASE_MOVES[CaseStatus.SEALED] == frozenset()


@pytest.mark.parametrize(
    "gate", [CaseStatus.IDENTITY_CHECK, CaseStatus.IN_REVIEW, CaseStatus.AWAITING_APPROVAL]
)
def test_no_path_to_executing_leaves_out_identity_review_or_the_second_person(
    gate: CaseStatus,
) -> None:
    assert CaseStatus.EXECUTING in reachable(CaseStatus.WITHDRAWN)
    assert CaseStatus.EXECUTING not in reachable(gate)


def test_every_case_can_be_sealed_in_the_end() -> None:
    for start in CaseStatus:
        found, todo = {start}, [start]
        while todo:
            for to in CASE_MOVES[todo.pop()] - found:
                found.add(to)
                todo.append(to)
        assert CaseStatus.SEALED in found


def test_a_request_on_paper_needs_no_mailed_code() -> None:
    assert first_status(mailbox_unconfirmed=False) == CaseStatus.IDENTITY_CHECK
