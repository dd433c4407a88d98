"""Every cell of both machines, and each story of an upgrade as a transcript.

A transcript is the input and the output in one text: an event and the time at which it comes, the state that
follows, and under it the actions, in order. `check` feeds the events and compares the whole text. When a change of
the machine is meant, take the text from the failure and read the difference.
"""

from __future__ import annotations

from enum import Enum
from textwrap import dedent
from typing import Any

import pytest

from gunicorn_hot import handover
from gunicorn_hot.handover import (
    Machine,
    Predecessor,
    PredecessorState,
    Successor,
    SuccessorState,
    Unexpected,
)

GOOD_UPGRADE = (
    (0.0, handover.UpgradeRequested()),
    (0.0, handover.SuccessorSpawned(7)),
    (0.5, handover.SuccessorGreeted()),
    (4.0, handover.SuccessorReady()),
    (4.0, handover.ReadyReported(frozenset({1, 2}))),
    (4.1, handover.WorkerPaused(1)),
    (4.2, handover.WorkerPaused(2)),
    (4.3, handover.GateOpened()),
    (9.3, handover.Tick()),
    (9.4, handover.SuccessorCommitted()),
    (13.0, handover.AllWorkersGone()),
    (13.0, handover.DoneReported()),
)


_BEFORE_IT_BOOTS = (handover.SuccessorSpawned, handover.SuccessorGreeted)


def predecessor(state: str = "SERVING", **limits: float) -> handover.Predecessor:
    """Return a machine that has come into `state` by GOOD_UPGRADE, at the time that is said there."""
    machine = handover.Predecessor(handover.Limits(**limits))
    for now, event in GOOD_UPGRADE:
        if machine.state.name == state and not isinstance(event, _BEFORE_IT_BOOTS):
            break
        machine.step(event, now)
    assert machine.state.name == state
    return machine


def successor(stock: bool = False) -> handover.Successor:
    return handover.Successor(stock=stock)


def words(action: handover.Action) -> str:
    if isinstance(action, handover.Log):
        return f"{action.level}: {action.text}"
    if isinstance(action, handover.Tell):
        return f"tell: {action.type} {action.id}".rstrip()
    # What is as usual is not said.
    told = [f"{name}={value!r}" for name, value in vars(action).items() if value != getattr(type(action), name, ...)]
    return f"{type(action).__name__}({', '.join(told)})"


def render(machine: handover.Machine, steps: list[str]) -> list[str]:
    """Feed the steps, each "<time> <event>", and return the transcript."""
    lines = []
    for step in steps:
        time, event = step.split(maxsplit=1)
        actions = machine.step(eval(event, vars(handover)), now=float(time))
        lines.append(f"{step} -> {machine.state.name}")
        lines += [f"    {words(action)}" for action in actions]
    return lines


def check(machine: handover.Machine, transcript: str) -> None:
    expected = dedent(transcript).strip()
    steps = [line.rpartition(" -> ")[0] for line in expected.splitlines() if not line.startswith(" ")]
    assert "\n".join(render(machine, steps)) == expected


# --- Every cell ---------------------------------------------------------------------------------------------

SAMPLES: dict[type[handover.Event], handover.Event] = {
    type(event): event
    for event in (
        handover.Tick(),
        handover.UpgradeRequested("id"),
        handover.CheckRequested("id"),
        handover.AbortRequested("id"),
        handover.RollbackRequested("id"),
        handover.CommitRequested("id"),
        handover.StopRequested("term"),
        handover.ReloadRequested(),
        handover.ResizeRequested("ttin"),
        handover.SuccessorSpawned(7),
        handover.SpawnFailed("no memory"),
        handover.SuccessorGreeted(),
        handover.SuccessorReady(),
        handover.ReadyReported(frozenset({1})),
        handover.SuccessorWaits("worker (pid: 8) is busy"),
        handover.WorkerPaused(1),
        handover.WorkerGone(1),
        handover.AllWorkersGone(),
        handover.DoneReported(),
        handover.GateOpened(),
        handover.SuccessorCommitted(),
        handover.SuccessorFailed("it said so"),
        handover.SuccessorLeft(),
        handover.SuccessorStayed(),
        handover.SuccessorClosed(),
        handover.SuccessorExited("exited with code 1"),
        handover.WorkersCounted(1, 2),
        handover.WorkerFailed("ImportError"),
        handover.WorkerDied("was killed", 1, 2),
        handover.GateOrdered(),
        handover.CommitOrdered(),
        handover.PredecessorClosed(),
    )
}

#: Only a successor that was told to commit says these.
COMMITTED = "SuccessorCommitted SuccessorLeft SuccessorStayed"
#: These belong to a successor that boots.
EARLIER = "SpawnFailed SuccessorGreeted SuccessorReady SuccessorSpawned"
#: What cannot come in a state, and so must raise. Nobody else adds to this by accident.
RAISING = {
    Predecessor: {
        "SERVING": f"GateOpened {EARLIER} {COMMITTED}",
        "BOOTING": f"GateOpened {COMMITTED}",
        "PAUSING": f"DoneReported ReadyReported GateOpened {EARLIER} {COMMITTED}",
        "OPENING": f"DoneReported ReadyReported {EARLIER} {COMMITTED}",
        "PROBATION": f"DoneReported ReadyReported GateOpened {EARLIER} {COMMITTED}",
        "COMMITTING": f"DoneReported ReadyReported GateOpened {EARLIER} SuccessorStayed",
        "DRAINING": f"GateOpened ReadyReported {EARLIER} SuccessorCommitted",
        "ENDING": "SpawnFailed SuccessorSpawned",
        "GONE": "SpawnFailed SuccessorSpawned",
    },
    Successor: {
        "BOOTING": "CommitOrdered GateOrdered",
        "READY": "CommitOrdered",
        "OPEN": "GateOrdered",
        "SOLE": "ReloadRequested ResizeRequested StopRequested",
    },
}

CELLS = [
    (machine, state, event)
    for machine, states in ((Predecessor, PredecessorState), (Successor, SuccessorState))
    for state in states
    for event in handover.event_types(machine)
]


def machine_in(kind: type[Machine], state: Enum) -> Any:
    """Return a machine that is in `state`, whose deadline is over."""
    machine: Any = predecessor() if kind is Predecessor else successor()
    machine.state = state
    machine.deadline = 0.0
    if state is PredecessorState.PAUSING:
        machine.awaited = frozenset({1})
    return machine


def cell_name(value: Any) -> str:
    return value.name if isinstance(value, Enum) else value.__name__


def test_there_is_a_sample_of_every_event() -> None:
    events = {thing for thing in vars(handover).values() if isinstance(thing, type)}
    kinds = {event for event in events if issubclass(event, handover.Event)}
    assert kinds - {handover.Event, handover.Request} == set(SAMPLES)


def test_every_event_concerns_a_machine() -> None:
    assert {event for _, _, event in CELLS} == set(SAMPLES)


@pytest.mark.parametrize(("kind", "state", "event"), CELLS, ids=cell_name)
def test_every_cell_is_handled_or_ignored_for_a_reason_or_raises(
    kind: type[Machine], state: Enum, event: type[handover.Event]
) -> None:
    handled, ignored = (state, event) in kind.table, (state, event) in kind.ignored
    raising = event.__name__ in RAISING[kind].get(state.name, "").split()
    assert handled + ignored + raising == 1
    machine = machine_in(kind, state)
    before = dict(vars(machine))
    if handled:
        actions = machine.step(SAMPLES[event], now=1.0)
        assert isinstance(actions, tuple)
        assert all(isinstance(action, handover.Action) for action in actions)
        return
    if ignored:
        assert kind.ignored[state, event].strip()
        assert machine.step(SAMPLES[event], now=1.0) == ()
    else:
        with pytest.raises(Unexpected, match=f"^{event.__name__} in state {state.name}$"):
            machine.step(SAMPLES[event], now=1.0)
    assert vars(machine) == before


@pytest.mark.parametrize("state", PredecessorState, ids=cell_name)
def test_a_tick_before_the_deadline_changes_nothing(state: PredecessorState) -> None:
    machine = machine_in(Predecessor, state)
    machine.deadline = 10.0
    before = dict(vars(machine))
    assert machine.step(handover.Tick(), now=9.99) == ()
    assert vars(machine) == before


def test_a_copy_goes_its_own_way() -> None:
    machine = predecessor("PAUSING")
    copy = machine.copy()
    copy.step(handover.WorkerPaused(1), now=4.1)
    assert (machine.awaited, copy.awaited) == ({1, 2}, {2})


@pytest.mark.parametrize("state", PredecessorState, ids=cell_name)
def test_workers_that_are_missing_are_booted_only_while_workers_accept(state: PredecessorState) -> None:
    machine = machine_in(Predecessor, state)
    assert machine.accepting == (state.name in ("SERVING", "BOOTING", "ENDING"))


def test_a_master_that_is_being_stopped_boots_no_workers() -> None:
    machine = predecessor("BOOTING")
    machine.step(handover.StopRequested("term"), now=1.0)
    assert (machine.state.name, machine.accepting) == ("ENDING", False)


# --- The predecessor: an upgrade that succeeds --------------------------------------------------------------


def test_the_good_upgrade() -> None:
    check(
        predecessor(),
        """
        0 UpgradeRequested() -> BOOTING
            StartSuccessor()
        0 SuccessorSpawned(pid=7) -> BOOTING
            info: Upgrade: booting successor with pid: 7
            tell: leaving
        4 SuccessorReady() -> BOOTING
            ReportReady()
        4 ReadyReported(workers=frozenset({1, 2})) -> PAUSING
            PauseWorkers()
        4.1 WorkerPaused(pid=1) -> PAUSING
        4.2 WorkerPaused(pid=2) -> OPENING
            tell: open
        4.3 GateOpened() -> PROBATION
            info: Upgrade: cut over, in probation for 5s (hot_probation)
        5 Tick() -> PROBATION
        9.3 Tick() -> COMMITTING
            ReleaseOwnership()
            tell: commit
        9.4 SuccessorCommitted() -> DRAINING
            DrainWorkers(timeout=30.0)
        12 WorkerGone(pid=1) -> DRAINING
        13 WorkerGone(pid=2) -> DRAINING
        13 AllWorkersGone() -> DRAINING
            ReportDone()
        13 DoneReported() -> GONE
            Leave()
        """,
    )


def test_without_a_probation_the_commit_follows_the_gate_at_once() -> None:
    check(
        predecessor("OPENING", probation=0),
        """
        4.3 GateOpened() -> COMMITTING
            info: Upgrade: cut over
            ReleaseOwnership()
            tell: commit
        4.4 SuccessorCommitted() -> DRAINING
            DrainWorkers(timeout=30.0)
        """,
    )


def test_with_no_worker_to_pause_the_gate_opens_at_once() -> None:
    check(
        predecessor("BOOTING"),
        """
        4 SuccessorReady() -> BOOTING
            ReportReady()
        4 ReadyReported(workers=frozenset()) -> OPENING
            PauseWorkers()
            tell: open
        """,
    )


def test_a_worker_that_dies_while_its_pause_is_awaited_cannot_accept_either() -> None:
    check(
        predecessor("PAUSING"),
        """
        4.1 WorkerGone(pid=1) -> PAUSING
        4.2 WorkerPaused(pid=1) -> PAUSING
        4.3 WorkerPaused(pid=2) -> OPENING
            tell: open
        """,
    )


def test_a_busy_worker_holds_the_cutover_up_for_a_second_and_no_longer() -> None:
    check(
        predecessor("PAUSING"),
        """
        4.1 WorkerPaused(pid=1) -> PAUSING
        4.9 Tick() -> PAUSING
        5 Tick() -> OPENING
            warning: Upgrade: no answer to the pause in 1s from worker 2; going on
            tell: open
        6 WorkerPaused(pid=2) -> OPENING
        """,
    )


def test_without_hot_ready_timeout_a_boot_has_no_bound() -> None:
    check(
        predecessor("BOOTING", ready=0),
        """
        9999 Tick() -> BOOTING
        9999 SuccessorReady() -> BOOTING
            ReportReady()
        9999 ReadyReported(workers=frozenset({1})) -> PAUSING
            PauseWorkers()
        """,
    )


# --- The predecessor: failures before the cut-over ----------------------------------------------------------


def test_a_successor_that_cannot_be_forked_changes_nothing() -> None:
    check(
        predecessor(),
        """
        0 UpgradeRequested() -> BOOTING
            StartSuccessor()
        0 SpawnFailed(reason='Resource temporarily unavailable') -> SERVING
            ReportFailure(reason='the successor could not be started: Resource temporarily unavailable')
        1 UpgradeRequested() -> BOOTING
            StartSuccessor()
        """,
    )


def test_a_successor_that_exits_while_booting_is_reported_with_its_status() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 SuccessorClosed(error=None) -> ENDING
        2 SuccessorExited(status='exited with code 1') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor exited with code 1')
            tell: staying
        3 UpgradeRequested() -> BOOTING
            StartSuccessor()
        """,
    )


def test_a_death_whose_eof_was_not_seen_is_reported_too() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL')
            tell: staying
        """,
    )


def test_a_successor_that_says_why_is_reported_once() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 SuccessorFailed(reason='worker (pid: 9) failed to boot: ImportError') -> ENDING
            ReportFailure(reason='worker (pid: 9) failed to boot: ImportError')
            EndSuccessor()
        2 SuccessorClosed(error=None) -> ENDING
        2.5 SuccessorExited(status='exited with code 3') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


def test_words_that_come_after_an_eof_are_the_better_reason() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 SuccessorClosed(error=None) -> ENDING
        2 SuccessorFailed(reason='it said so') -> ENDING
            ReportFailure(reason='it said so')
        2 SuccessorExited(status='exited with code 3') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


def test_a_broken_channel_ends_a_successor_that_lives() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 SuccessorClosed(error='not a gunicorn_hot message') -> ENDING
            ReportFailure(reason='the channel to the successor broke: not a gunicorn_hot message')
            EndSuccessor()
        2.5 SuccessorExited(status='exited with code 0') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


def test_a_successor_that_is_not_ready_in_time_is_ended_and_the_bound_is_quoted() -> None:
    check(
        predecessor("BOOTING"),
        """
        59 Tick() -> BOOTING
        60 Tick() -> ENDING
            ReportFailure(reason='not ready in 60s (hot_ready_timeout)')
            EndSuccessor()
        61 SuccessorExited(status='exited with code 0') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


def test_a_successor_that_does_not_end_is_killed() -> None:
    check(
        predecessor("BOOTING"),
        """
        60 Tick() -> ENDING
            ReportFailure(reason='not ready in 60s (hot_ready_timeout)')
            EndSuccessor()
        64 Tick() -> ENDING
        65 Tick() -> ENDING
            warning: The successor did not end in time, killing it
            KillSuccessor()
        99 Tick() -> ENDING
        99 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


def test_what_a_successor_says_while_it_is_being_ended_is_ignored() -> None:
    check(
        predecessor("BOOTING"),
        """
        60 Tick() -> ENDING
            ReportFailure(reason='not ready in 60s (hot_ready_timeout)')
            EndSuccessor()
        60 SuccessorReady() -> ENDING
        60 ReadyReported(workers=frozenset({1, 2})) -> ENDING
        60 GateOpened() -> ENDING
        60 SuccessorCommitted() -> ENDING
        61 SuccessorExited(status='exited with code 0') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


# --- The predecessor: asked again ---------------------------------------------------------------------------


def test_a_second_upgrade_replaces_a_successor_that_boots() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 UpgradeRequested() -> ENDING
            info: Upgrade: asked for again, replacing the booting successor
            EndSuccessor()
        3 SuccessorClosed(error=None) -> ENDING
        3 SuccessorExited(status='exited with code 0') -> BOOTING
            RestoreOwnership()
            tell: staying
            StartSuccessor()
        3 SuccessorSpawned(pid=8) -> BOOTING
            info: Upgrade: booting successor with pid: 8
            tell: leaving
        """,
    )


def test_an_upgrade_asked_for_while_a_failed_successor_ends_begins_when_it_has_ended() -> None:
    check(
        predecessor("BOOTING"),
        """
        60 Tick() -> ENDING
            ReportFailure(reason='not ready in 60s (hot_ready_timeout)')
            EndSuccessor()
        61 UpgradeRequested() -> ENDING
            info: Upgrade: asked for, begins when the last successor has ended
        62 SuccessorExited(status='exited with code 0') -> BOOTING
            RestoreOwnership()
            tell: staying
            StartSuccessor()
        """,
    )


def test_after_the_cutover_an_upgrade_is_the_successors() -> None:
    check(
        predecessor("PAUSING"),
        """
        4 UpgradeRequested() -> PAUSING
            info: Upgrade: asked for again, passed on to the successor
            tell: upgrade
        4.1 WorkerPaused(pid=1) -> PAUSING
        4.2 WorkerPaused(pid=2) -> OPENING
            tell: open
        4.2 UpgradeRequested() -> OPENING
            info: Upgrade: asked for again, passed on to the successor
            tell: upgrade
        4.3 GateOpened() -> PROBATION
            info: Upgrade: cut over, in probation for 5s (hot_probation)
        5 UpgradeRequested() -> PROBATION
            info: Upgrade: asked for again, passed on to the successor
            tell: upgrade
        9.3 Tick() -> COMMITTING
            ReleaseOwnership()
            tell: commit
        9.3 UpgradeRequested() -> COMMITTING
            info: Upgrade: asked for again, passed on to the successor
            tell: upgrade
        9.4 SuccessorCommitted() -> DRAINING
            DrainWorkers(timeout=30.0)
        10 UpgradeRequested() -> DRAINING
            info: Upgrade: asked for again, passed on to the successor
            tell: upgrade
        """,
    )


# --- The predecessor: what an operator asks -----------------------------------------------------------------


def test_a_request_names_its_upgrade_also_when_it_has_to_wait() -> None:
    check(
        predecessor(),
        """
        0 UpgradeRequested(id='a') -> BOOTING
            StartSuccessor(id='a')
        0 SuccessorSpawned(pid=7) -> BOOTING
            info: Upgrade: booting successor with pid: 7
            tell: leaving
        1 UpgradeRequested(id='b') -> ENDING
            info: Upgrade: asked for again, replacing the booting successor
            EndSuccessor()
        2 UpgradeRequested(id='c') -> ENDING
            info: Upgrade: asked for, begins when the last successor has ended
            Refuse(id='b', reason='asked for again: that request counts')
        3 SuccessorExited(status='exited with code 0') -> BOOTING
            RestoreOwnership()
            tell: staying
            StartSuccessor(id='c')
        """,
    )


def test_a_request_that_comes_after_the_cutover_is_passed_on_with_its_name() -> None:
    check(
        predecessor("DRAINING"),
        """
        10 UpgradeRequested(id='a') -> DRAINING
            info: Upgrade: asked for again, passed on to the successor
            tell: upgrade a
        """,
    )


def test_a_check_ends_the_successor_as_soon_as_it_is_ready() -> None:
    check(
        predecessor(),
        """
        0 CheckRequested(id='a') -> BOOTING
            StartSuccessor(id='a', check=True)
        0 SuccessorSpawned(pid=7) -> BOOTING
            info: Upgrade check: booting successor with pid: 7
            tell: leaving
        0.5 SuccessorGreeted() -> BOOTING
        4 SuccessorReady() -> ENDING
            ReportChecked()
            EndSuccessor()
        4 SuccessorFailed(reason='the successor was stopped by SIGTERM') -> ENDING
        4 SuccessorClosed() -> ENDING
        5 SuccessorExited(status='exited with code 0') -> SERVING
            RestoreOwnership()
            tell: staying
        6 UpgradeRequested(id='b') -> BOOTING
            StartSuccessor(id='b')
        """,
    )


def test_a_check_never_leaves_the_service_to_a_successor_that_does_not_speak() -> None:
    check(
        predecessor(leave=True),
        """
        0 CheckRequested(id='a') -> BOOTING
            StartSuccessor(id='a', check=True)
        60 Tick() -> ENDING
            ReportFailure(reason='not ready in 60s (hot_ready_timeout); it has said nothing: does its configuration import on_starting from gunicorn_hot?')
            EndSuccessor()
        """,  # noqa: E501 - a transcript
    )


def test_an_upgrade_replaces_a_check() -> None:
    check(
        predecessor(),
        """
        0 CheckRequested() -> BOOTING
            StartSuccessor(check=True)
        1 UpgradeRequested(id='a') -> ENDING
            info: Upgrade: asked for again, replacing the booting successor
            EndSuccessor()
        2 SuccessorExited(status='exited with code 0') -> BOOTING
            RestoreOwnership()
            tell: staying
            StartSuccessor(id='a')
        """,
    )


def test_aborting_ends_a_successor_that_boots() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 AbortRequested(id='a', by='me') -> ENDING
            ReportFailure(reason='aborted by me', aborted=True)
            EndSuccessor()
        2 AbortRequested(id='b', by='me') -> ENDING
            Refuse(id='b', reason='not while the master is ending the successor')
        3 SuccessorExited(status='exited with code 0') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


@pytest.mark.parametrize(
    ("state", "request_", "reason"),
    [
        ("PAUSING", "AbortRequested", "aborted"),
        ("OPENING", "AbortRequested", "aborted"),
        ("PROBATION", "AbortRequested", "aborted"),
        ("PROBATION", "RollbackRequested", "rolled back"),
    ],
)
def test_what_is_not_committed_can_be_taken_back(state: str, request_: str, reason: str) -> None:
    check(
        predecessor(state),
        f"""
        4 {request_}(id='a') -> ENDING
            ResumeWorkers()
            ReportFailure(reason='{reason} by an operator', aborted=True)
            EndSuccessor()
        """,
    )


def test_an_operator_may_end_the_probation() -> None:
    check(
        predecessor("PROBATION"),
        """
        5 CommitRequested(id='a', by='me') -> COMMITTING
            info: Upgrade: the probation is ended by me
            ReleaseOwnership()
            tell: commit
        """,
    )


def test_aborting_an_upgrade_that_waits_for_the_end_of_the_last_one() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 UpgradeRequested(id='a') -> ENDING
            info: Upgrade: asked for again, replacing the booting successor
            EndSuccessor()
        2 AbortRequested(id='b') -> ENDING
            info: Upgrade: the next one is aborted by an operator
            Refuse(id='a', reason='aborted by an operator')
        3 SuccessorExited(status='exited with code 0') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


REFUSED = {
    "SERVING": "AbortRequested RollbackRequested CommitRequested",
    "BOOTING": "CheckRequested RollbackRequested CommitRequested",
    "PAUSING": "CheckRequested RollbackRequested CommitRequested",
    "OPENING": "CheckRequested RollbackRequested CommitRequested",
    "PROBATION": "CheckRequested",
    "COMMITTING": "CheckRequested AbortRequested RollbackRequested CommitRequested",
    "DRAINING": "CheckRequested AbortRequested RollbackRequested CommitRequested",
}


@pytest.mark.parametrize(("state", "request_"), [(s, r) for s, names in REFUSED.items() for r in names.split()])
def test_what_cannot_be_granted_is_refused_and_changes_nothing(state: str, request_: str) -> None:
    machine = predecessor(state)
    before = dict(vars(machine))
    (action,) = machine.step(getattr(handover, request_)("a"), now=4.0)
    assert isinstance(action, handover.Refuse)
    assert (action.id, vars(machine)) == ("a", before)


def test_a_request_to_a_master_that_is_being_stopped_is_refused() -> None:
    machine = predecessor("BOOTING")
    machine.step(handover.StopRequested("term"), now=1.0)
    assert handover.Refuse("a", "the service is being stopped") in machine.step(handover.UpgradeRequested("a"), now=1.0)


def test_of_two_requests_to_a_successor_the_later_one_counts() -> None:
    check(
        successor(),
        """
        1 UpgradeRequested(id='a') -> BOOTING
            info: Upgrade: asked for, begins when this master has taken over
        1 UpgradeRequested(id='b') -> BOOTING
            info: Upgrade: asked for, begins when this master has taken over
            Refuse(id='a', reason='asked for again: that request counts')
        2 PredecessorClosed() -> SOLE
            warning: The predecessor is gone, going on without it
            OpenGate()
            TakeOwnership()
            RequestUpgrade(id='b')
        """,
    )


# --- The predecessor: stopped -------------------------------------------------------------------------------


def test_a_serving_master_is_stopped_as_gunicorn_does() -> None:
    check(
        predecessor(),
        """
        0 StopRequested(how='quit') -> GONE
            Stop(how='quit')
        """,
    )


def test_stopping_a_booting_upgrade_ends_the_successor_first() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 StopRequested(how='term') -> ENDING
            ReportFailure(reason='this master was stopped by SIGTERM')
            EndSuccessor()
        3 UpgradeRequested() -> ENDING
            warning: SIGUSR2 ignored: this master is being stopped
        3 SuccessorFailed(reason='stopped') -> ENDING
        3 SuccessorClosed(error=None) -> ENDING
        3 SuccessorExited(status='exited with code 0') -> GONE
            Stop(how='term')
        """,
    )


def test_stopping_while_workers_pause_does_not_resume_them() -> None:
    check(
        predecessor("PAUSING"),
        """
        4.1 StopRequested(how='term') -> ENDING
            ReportFailure(reason='this master was stopped by SIGTERM')
            EndSuccessor()
        4.2 SuccessorExited(status='exited with code 0') -> GONE
            Stop(how='term')
        """,
    )


def test_stopping_while_the_gate_opens_gives_the_successor_time_for_its_requests() -> None:
    check(
        predecessor("OPENING"),
        """
        4.3 StopRequested(how='int') -> ENDING
            ReportFailure(reason='this master was stopped by SIGINT')
            EndSuccessor()
        34.3 Tick() -> ENDING
            warning: The successor did not end in time, killing it
            KillSuccessor()
        34.4 SuccessorExited(status='was killed by SIGKILL') -> GONE
            Stop(how='int')
        """,
    )


def test_stopping_in_the_probation_stops_both() -> None:
    check(
        predecessor("PROBATION"),
        """
        5 StopRequested(how='term') -> ENDING
            ReportFailure(reason='this master was stopped by SIGTERM')
            EndSuccessor()
        6 SuccessorExited(status='exited with code 0') -> GONE
            Stop(how='term')
        """,
    )


def test_stopping_while_the_commit_is_not_answered_stops_both() -> None:
    check(
        predecessor("COMMITTING"),
        """
        9.4 StopRequested(how='term') -> ENDING
            RestoreOwnership()
            ReportFailure(reason='this master was stopped by SIGTERM')
            EndSuccessor()
        9.4 SuccessorCommitted() -> ENDING
        9.5 SuccessorLeft() -> ENDING
        9.5 SuccessorExited(status='exited with code 0') -> GONE
            Stop(how='term')
        """,
    )


def test_stopping_after_the_commit_ends_only_the_drain() -> None:
    check(
        predecessor("DRAINING"),
        """
        10 StopRequested(how='term') -> GONE
            info: Drain ended early
            Stop(how='term')
        11 AllWorkersGone() -> GONE
        """,
    )


def test_stopping_after_the_commit_stops_the_service_where_its_pid_stays() -> None:
    check(
        predecessor("DRAINING", keeps_pid=True),
        """
        10.0 StopRequested("term") -> GONE
            info: Drain ended early
            StopService(how='term')
            KeepPid()
            Stop(how='term')
        """,
    )


def test_a_master_whose_pid_stays_does_not_end_with_its_drain() -> None:
    check(
        predecessor("DRAINING", keeps_pid=True),
        """
        13.0 AllWorkersGone() -> DRAINING
            ReportDone()
        13.0 DoneReported() -> GONE
            KeepPid()
            Leave()
        """,
    )


def test_where_the_pid_stays_it_ends_with_the_service_before_the_commit() -> None:
    check(
        predecessor("SERVING", keeps_pid=True),
        """
        1.0 StopRequested("term") -> GONE
            Stop(how='term')
        """,
    )


def test_an_impatient_operator_kills_the_successor() -> None:
    check(
        predecessor("BOOTING"),
        """
        2 StopRequested(how='term') -> ENDING
            ReportFailure(reason='this master was stopped by SIGTERM')
            EndSuccessor()
        3 StopRequested(how='term') -> ENDING
            KillSuccessor()
        3 SuccessorExited(status='was killed by SIGKILL') -> GONE
            Stop(how='term')
        """,
    )


def test_a_quick_stop_does_not_wait_for_a_successor_that_is_ending() -> None:
    check(
        predecessor("BOOTING"),
        """
        60 Tick() -> ENDING
            ReportFailure(reason='not ready in 60s (hot_ready_timeout)')
            EndSuccessor()
        61 StopRequested(how='int') -> ENDING
            KillSuccessor()
        61 SuccessorExited(status='was killed by SIGKILL') -> GONE
            Stop(how='int')
        """,
    )


# --- The predecessor: rollback ------------------------------------------------------------------------------


def test_a_successor_that_dies_while_workers_pause_is_rolled_back() -> None:
    check(
        predecessor("PAUSING"),
        """
        4.1 WorkerPaused(pid=1) -> PAUSING
        4.2 SuccessorClosed(error=None) -> ENDING
            ResumeWorkers()
        4.2 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL')
            tell: staying
        4.3 WorkerPaused(pid=2) -> SERVING
        """,
    )


def test_a_successor_that_has_closed_its_channel_and_lives_is_ended_after_a_second() -> None:
    check(
        predecessor("PROBATION"),
        """
        5 SuccessorClosed(error=None) -> ENDING
            ResumeWorkers()
        5.9 Tick() -> ENDING
        6 Tick() -> ENDING
            EndSuccessor()
        35.9 Tick() -> ENDING
        36 Tick() -> ENDING
            warning: The successor did not end in time, killing it
            KillSuccessor()
        36 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL')
            tell: staying
        """,
    )


def test_a_successor_that_does_not_accept_is_killed() -> None:
    check(
        predecessor("OPENING"),
        """
        5.2 Tick() -> ENDING
            ResumeWorkers()
            ReportFailure(reason='the successor was ready but did not accept in 1s')
            KillSuccessor()
        5.2 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


def test_a_successor_that_dies_in_probation_is_rolled_back() -> None:
    check(
        predecessor("PROBATION"),
        """
        5 SuccessorClosed(error=None) -> ENDING
            ResumeWorkers()
        5 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL')
            tell: staying
        6 UpgradeRequested() -> BOOTING
            StartSuccessor()
        """,
    )


def test_a_successor_that_fails_in_probation_is_rolled_back_and_may_finish_its_requests() -> None:
    check(
        predecessor("PROBATION"),
        """
        5 SuccessorFailed(reason='its workers keep dying') -> ENDING
            ResumeWorkers()
            ReportFailure(reason='its workers keep dying')
            EndSuccessor()
        34 Tick() -> ENDING
        35 Tick() -> ENDING
            warning: The successor did not end in time, killing it
            KillSuccessor()
        35 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


def test_a_successor_that_does_not_answer_the_commit_is_killed() -> None:
    check(
        predecessor("COMMITTING"),
        """
        14.3 Tick() -> ENDING
            ResumeWorkers()
            RestoreOwnership()
            ReportFailure(reason='the successor did not answer to the commit in 5s')
            KillSuccessor()
        14.3 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


def test_a_successor_that_dies_while_it_commits_is_rolled_back() -> None:
    check(
        predecessor("COMMITTING"),
        """
        9.4 SuccessorClosed(error=None) -> ENDING
            ResumeWorkers()
            RestoreOwnership()
        9.4 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL')
            tell: staying
        """,
    )


def test_ready_and_death_in_one_loop_is_a_death() -> None:
    # The arbiter drops "ready" when EOF came in the same read. Even if it did not, the death would follow.
    check(
        predecessor("PAUSING"),
        """
        4 SuccessorClosed(error=None) -> ENDING
            ResumeWorkers()
        4 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL')
            tell: staying
        """,
    )


# --- The predecessor: draining ------------------------------------------------------------------------------


def test_a_successor_that_dies_while_we_drain_is_taken_back_from() -> None:
    check(
        predecessor("DRAINING"),
        """
        10 WorkerGone(pid=1) -> DRAINING
        11 SuccessorClosed(error=None) -> ENDING
            ResumeWorkers()
            RestoreOwnership()
        11 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL')
            tell: staying
        12 UpgradeRequested() -> BOOTING
            StartSuccessor()
        """,
    )


def test_a_death_while_we_drain_whose_eof_was_not_seen_is_taken_back_from_too() -> None:
    check(
        predecessor("DRAINING"),
        """
        11 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            ResumeWorkers()
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL after the commit; taking back')
            tell: staying
        """,
    )


def test_a_successor_that_fails_after_the_commit_is_taken_back_from() -> None:
    check(
        predecessor("DRAINING"),
        """
        11 SuccessorFailed(reason='Worker failed to boot.') -> ENDING
            ResumeWorkers()
            RestoreOwnership()
            ReportFailure(reason='Worker failed to boot.')
            EndSuccessor()
        11 SuccessorClosed(error=None) -> ENDING
        12 SuccessorExited(status='exited with code 3') -> SERVING
            RestoreOwnership()
            tell: staying
        """,
    )


def test_a_successor_that_left_on_purpose_is_not_taken_back_from() -> None:
    check(
        predecessor("DRAINING"),
        """
        10 SuccessorLeft() -> DRAINING
        10 UpgradeRequested() -> DRAINING
            info: Upgrade: asked for again, passed on to the successor
            tell: upgrade
        10 SuccessorClosed(error=None) -> DRAINING
        10 SuccessorExited(status='exited with code 0') -> DRAINING
        13 AllWorkersGone() -> DRAINING
            ReportDone()
        13 DoneReported() -> GONE
            Leave()
        """,
    )


def test_a_successor_whose_own_upgrade_has_failed_is_taken_back_from_again() -> None:
    check(
        predecessor("DRAINING"),
        """
        10 SuccessorLeft() -> DRAINING
        12 SuccessorStayed() -> DRAINING
        13 SuccessorClosed(error=None) -> ENDING
            ResumeWorkers()
            RestoreOwnership()
        13 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL')
            tell: staying
        """,
    )


def test_a_successor_that_upgrades_once_more_is_no_more_taken_back_from() -> None:
    check(
        predecessor("DRAINING"),
        """
        10 SuccessorLeft() -> DRAINING
        12 SuccessorStayed() -> DRAINING
        13 SuccessorLeft() -> DRAINING
        14 SuccessorFailed(reason='Worker failed to boot.') -> DRAINING
        14 SuccessorClosed(error=None) -> DRAINING
        14 SuccessorExited(status='exited with code 3') -> DRAINING
        """,
    )


def test_a_successor_that_left_had_committed_whatever_became_of_its_word() -> None:
    check(
        predecessor("COMMITTING"),
        """
        9.4 SuccessorLeft() -> DRAINING
            DrainWorkers(timeout=30.0)
        9.4 SuccessorClosed(error=None) -> DRAINING
        9.4 SuccessorExited(status='exited with code 0') -> DRAINING
        13 AllWorkersGone() -> DRAINING
            ReportDone()
        13 DoneReported() -> GONE
            Leave()
        """,
    )


def test_last_words_that_say_that_it_stayed_undo_that_it_left() -> None:
    check(
        predecessor("COMMITTING"),
        """
        9.4 SuccessorLeft() -> DRAINING
            DrainWorkers(timeout=30.0)
        9.4 SuccessorStayed() -> DRAINING
        9.4 SuccessorClosed(error=None) -> ENDING
            ResumeWorkers()
            RestoreOwnership()
        """,
    )


def test_a_successor_that_is_given_up_cannot_be_helped_by_its_plans() -> None:
    check(
        predecessor("DRAINING"),
        """
        10 SuccessorClosed(error=None) -> ENDING
            ResumeWorkers()
            RestoreOwnership()
        10 SuccessorLeft() -> ENDING
        10 SuccessorStayed() -> ENDING
        10 SuccessorExited(status='exited with code 0') -> SERVING
            RestoreOwnership()
            ReportFailure(reason='the successor exited with code 0')
            tell: staying
        """,
    )


def test_a_fresh_successor_that_cannot_be_forked_is_no_heir() -> None:
    # "leaving" was said when the first was forked: without "staying" a predecessor that drains would not take back.
    check(
        predecessor("BOOTING"),
        """
        2 UpgradeRequested() -> ENDING
            info: Upgrade: asked for again, replacing the booting successor
            EndSuccessor()
        3 SuccessorExited(status='exited with code 0') -> BOOTING
            RestoreOwnership()
            tell: staying
            StartSuccessor()
        3 SpawnFailed(reason='no memory') -> SERVING
            ReportFailure(reason='the successor could not be started: no memory')
        """,
    )


def test_a_drain_that_is_overdue_is_cut_and_then_killed() -> None:
    check(
        predecessor("DRAINING"),
        """
        39 Tick() -> DRAINING
        39.4 Tick() -> DRAINING
            warning: Drain: 30s are over (hot_drain_timeout), cutting what is left
            CutWorkers()
        44.4 Tick() -> DRAINING
            warning: Workers did not leave in 5s, killing them
            KillWorkers()
        99 Tick() -> DRAINING
        99 AllWorkersGone() -> DRAINING
            ReportDone()
        99 DoneReported() -> GONE
            Leave()
        """,
    )


def test_a_cut_drain_can_still_be_taken_back() -> None:
    check(
        predecessor("DRAINING"),
        """
        39.4 Tick() -> DRAINING
            warning: Drain: 30s are over (hot_drain_timeout), cutting what is left
            CutWorkers()
        40 SuccessorExited(status='was killed by SIGKILL') -> SERVING
            ResumeWorkers()
            RestoreOwnership()
            ReportFailure(reason='the successor was killed by SIGKILL after the commit; taking back')
            tell: staying
        """,
    )


# --- The predecessor: other signals -------------------------------------------------------------------------


def test_signals_are_gunicorns_while_no_upgrade_runs() -> None:
    check(
        predecessor(),
        """
        0 ReloadRequested() -> SERVING
            Reload()
        0 ResizeRequested(how='ttin') -> SERVING
            Resize(how='ttin')
        0 ResizeRequested(how='winch') -> SERVING
            Resize(how='winch')
        """,
    )


def test_a_reload_is_refused_while_an_upgrade_runs() -> None:
    check(
        predecessor("BOOTING"),
        """
        1 ReloadRequested() -> BOOTING
            warning: SIGHUP ignored: this master is booting a successor
        4 SuccessorReady() -> BOOTING
            ReportReady()
        4 ReadyReported(workers=frozenset()) -> OPENING
            PauseWorkers()
            tell: open
        4 ReloadRequested() -> OPENING
            warning: SIGHUP ignored: this master is waiting for the successor to accept
        4.1 GateOpened() -> PROBATION
            info: Upgrade: cut over, in probation for 5s (hot_probation)
        5 ReloadRequested() -> PROBATION
            warning: SIGHUP ignored: this master is in probation
        9.1 Tick() -> COMMITTING
            ReleaseOwnership()
            tell: commit
        9.1 ReloadRequested() -> COMMITTING
            warning: SIGHUP ignored: this master is committing
        9.2 SuccessorCommitted() -> DRAINING
            DrainWorkers(timeout=30.0)
        9.3 ReloadRequested() -> DRAINING
            warning: SIGHUP ignored: this master is draining
        9.4 SuccessorFailed(reason='it said so') -> ENDING
            ResumeWorkers()
            RestoreOwnership()
            ReportFailure(reason='it said so')
            EndSuccessor()
        9.4 ReloadRequested() -> ENDING
            warning: SIGHUP ignored: this master is ending the successor
        """,
    )


def test_a_resize_is_refused_from_the_cutover_on() -> None:
    check(
        predecessor("BOOTING"),
        """
        1 ResizeRequested(how='ttou') -> BOOTING
            Resize(how='ttou')
        4 SuccessorReady() -> BOOTING
            ReportReady()
        4 ReadyReported(workers=frozenset()) -> OPENING
            PauseWorkers()
            tell: open
        4 ResizeRequested(how='ttin') -> OPENING
            warning: SIGTTIN ignored: this master is waiting for the successor to accept
        4.1 GateOpened() -> PROBATION
            info: Upgrade: cut over, in probation for 5s (hot_probation)
        5 ResizeRequested(how='ttou') -> PROBATION
            warning: SIGTTOU ignored: this master is in probation
        9.1 Tick() -> COMMITTING
            ReleaseOwnership()
            tell: commit
        9.1 ResizeRequested(how='winch') -> COMMITTING
            warning: SIGWINCH ignored: this master is committing
        9.2 SuccessorCommitted() -> DRAINING
            DrainWorkers(timeout=30.0)
        9.3 ResizeRequested(how='ttin') -> DRAINING
            warning: SIGTTIN ignored: this master is draining
        9.4 SuccessorFailed(reason='it said so') -> ENDING
            ResumeWorkers()
            RestoreOwnership()
            ReportFailure(reason='it said so')
            EndSuccessor()
        9.4 ResizeRequested(how='ttin') -> ENDING
            Resize(how='ttin')
        """,
    )


# --- The successor ------------------------------------------------------------------------------------------


def test_the_good_upgrade_of_a_successor() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=1, total=2) -> BOOTING
            tell: progress
        1 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        2 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        7 CommitOrdered() -> SOLE
            TakeOwnership()
            tell: committed
        9 PredecessorClosed() -> SOLE
            info: The predecessor has left
        """,
    )


def test_a_successor_that_wants_no_workers_is_never_ready() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=0, total=0) -> BOOTING
            tell: progress
        """,
    )


def test_a_successor_with_one_worker_too_many_is_ready() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=3, total=2) -> READY
            tell: progress
            tell: ready
        """,
    )


def test_a_successor_that_loses_its_predecessor_while_booting_serves_as_soon_as_it_can() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=1, total=2) -> BOOTING
            tell: progress
        1 PredecessorClosed() -> SOLE
            warning: The predecessor is gone, going on without it
            OpenGate()
            TakeOwnership()
        2 WorkersCounted(ready=2, total=2) -> SOLE
        """,
    )


def test_a_successor_that_loses_its_predecessor_at_the_gate_opens_it() -> None:
    check(
        successor(),
        """
        1 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        2 PredecessorClosed() -> SOLE
            warning: The predecessor is gone, going on without it
            OpenGate()
            TakeOwnership()
        2 GateOrdered() -> SOLE
        2 CommitOrdered() -> SOLE
        """,
    )


def test_a_successor_that_loses_its_predecessor_in_probation_is_the_sole_owner() -> None:
    check(
        successor(),
        """
        1 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        2 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        3 PredecessorClosed() -> SOLE
            warning: The predecessor is gone, going on without it
            TakeOwnership()
        """,
    )


def test_a_worker_that_cannot_boot_ends_the_successor() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=1, total=2) -> BOOTING
            tell: progress
        1 WorkerFailed(reason='ImportError: no module named app') -> HALTING
            TellFailed(reason='ImportError: no module named app')
            Halt(reason='ImportError: no module named app')
        1 PredecessorClosed() -> HALTING
        """,
    )


def test_a_worker_that_dies_at_the_gate_changes_nothing() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        1 WorkerDied(reason='was killed', alive=1, total=2) -> READY
        1 WorkersCounted(ready=1, total=2) -> READY
        1 WorkerFailed(reason='was killed before it was ready') -> READY
        2 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        """,
    )


def test_more_deaths_than_workers_end_the_probation() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        1 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        2 WorkerDied(reason='was killed', alive=1, total=2) -> OPEN
        3 WorkerDied(reason='was killed', alive=1, total=2) -> OPEN
        4 WorkerDied(reason='was killed', alive=1, total=2) -> HALTING
            TellFailed(reason='its workers keep dying in the probation (3 deaths of 2 workers): was killed')
            Halt(reason='its workers keep dying in the probation (3 deaths of 2 workers): was killed')
        """,
    )


def test_the_death_of_the_last_worker_ends_the_probation() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=1, total=1) -> READY
            tell: progress
            tell: ready
        1 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        2 WorkerDied(reason='was killed', alive=0, total=1) -> HALTING
            TellFailed(reason='its workers keep dying in the probation (none is left): was killed')
            Halt(reason='its workers keep dying in the probation (none is left): was killed')
        """,
    )


def test_a_worker_that_cannot_be_booted_again_ends_the_probation() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        1 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        2 WorkerDied(reason='was killed', alive=1, total=2) -> OPEN
        3 WorkerFailed(reason='ImportError') -> HALTING
            TellFailed(reason='a worker could not be booted again in the probation: ImportError')
            Halt(reason='a worker could not be booted again in the probation: ImportError')
        """,
    )


def test_after_the_commit_deaths_are_gunicorns_affair() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        1 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        6 CommitOrdered() -> SOLE
            TakeOwnership()
            tell: committed
        7 WorkerDied(reason='was killed', alive=0, total=2) -> SOLE
        7 WorkerFailed(reason='ImportError') -> SOLE
        """,
    )


def test_a_successor_that_is_stopped_says_so() -> None:
    check(
        successor(),
        """
        0 StopRequested(how='term') -> HALTING
            TellFailed(reason='the successor was stopped by SIGTERM')
            Stop(how='term')
        """,
    )


def test_a_successor_that_is_stopped_in_probation_says_so() -> None:
    check(
        successor(),
        """
        0 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        1 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        2 StopRequested(how='quit') -> HALTING
            TellFailed(reason='the successor was stopped by SIGQUIT')
            Stop(how='quit')
        """,
    )


def test_an_upgrade_wanted_early_begins_at_the_commit() -> None:
    check(
        successor(),
        """
        0 UpgradeRequested() -> BOOTING
            info: Upgrade: asked for, begins when this master has taken over
        0 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        1 UpgradeRequested() -> READY
            info: Upgrade: asked for, begins when this master has taken over
        1 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        2 UpgradeRequested() -> OPEN
            info: Upgrade: asked for, begins when this master has taken over
        6 CommitOrdered() -> SOLE
            TakeOwnership()
            tell: committed
            RequestUpgrade()
        7 UpgradeRequested() -> SOLE
            RequestUpgrade()
        """,
    )


def test_an_upgrade_wanted_early_begins_when_the_predecessor_is_lost() -> None:
    check(
        successor(),
        """
        0 UpgradeRequested() -> BOOTING
            info: Upgrade: asked for, begins when this master has taken over
        1 PredecessorClosed() -> SOLE
            warning: The predecessor is gone, going on without it
            OpenGate()
            TakeOwnership()
            RequestUpgrade()
        2 PredecessorClosed() -> SOLE
            info: The predecessor has left
        """,
    )


def test_other_signals_to_an_uncommitted_successor() -> None:
    check(
        successor(),
        """
        0 ReloadRequested() -> BOOTING
            warning: SIGHUP ignored: this master has not taken over yet
        0 ResizeRequested(how='ttin') -> BOOTING
            warning: SIGTTIN ignored: this master has not taken over yet
        0 WorkersCounted(ready=2, total=2) -> READY
            tell: progress
            tell: ready
        1 ReloadRequested() -> READY
            warning: SIGHUP ignored: this master has not taken over yet
        1 GateOrdered() -> OPEN
            OpenGate()
            tell: opened
        2 ResizeRequested(how='ttou') -> OPEN
            warning: SIGTTOU ignored: this master has not taken over yet
        """,
    )


def test_a_stock_predecessor_is_stopped_when_all_workers_are_ready() -> None:
    check(
        successor(stock=True),
        """
        0 WorkersCounted(ready=1, total=2) -> BOOTING
            tell: progress
        1 WorkersCounted(ready=2, total=2) -> OPEN
            info: All 2 workers are ready, stopping the predecessor, which is no gunicorn_hot
            OpenGate()
            EndPredecessor()
        2 WorkerDied(reason='was killed', alive=0, total=2) -> OPEN
        2 WorkerFailed(reason='ImportError') -> OPEN
        9 PredecessorClosed() -> SOLE
            TakeOwnership()
        """,
    )


def test_a_stock_predecessor_that_dies_early_is_a_loss() -> None:
    check(
        successor(stock=True),
        """
        0 WorkersCounted(ready=1, total=2) -> BOOTING
            tell: progress
        1 PredecessorClosed() -> SOLE
            warning: The predecessor is gone, going on without it
            OpenGate()
            TakeOwnership()
        """,
    )


# --- A successor that is no gunicorn_hot ----------------------------------------------------------------------


def test_a_successor_that_never_speaks_is_ended_with_a_hint() -> None:
    check(
        predecessor(),
        """
        0 UpgradeRequested() -> BOOTING
            StartSuccessor()
        0 SuccessorSpawned(pid=7) -> BOOTING
            info: Upgrade: booting successor with pid: 7
            tell: leaving
        60 Tick() -> ENDING
            ReportFailure(reason='not ready in 60s (hot_ready_timeout); it has said nothing: does its configuration \
import on_starting from gunicorn_hot?')
            EndSuccessor()
        """,
    )


def test_the_service_is_left_to_a_successor_that_never_speaks_if_that_is_wanted() -> None:
    check(
        predecessor(leave=True),
        """
        0 UpgradeRequested() -> BOOTING
            StartSuccessor()
        0 SuccessorSpawned(pid=7) -> BOOTING
            info: Upgrade: booting successor with pid: 7
            tell: leaving
        60 Tick() -> GONE
            warning: The successor has not spoken in 60s; leaving the service to it (hot_leave)
            Stop(how='term')
        """,
    )


def test_a_hot_successor_that_hangs_is_ended_although_leaving_is_allowed() -> None:
    machine = predecessor("BOOTING", leave=True)
    assert handover.EndSuccessor() in machine.step(handover.Tick(), now=60)
