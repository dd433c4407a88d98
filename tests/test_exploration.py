"""Every interleaving of an upgrade, explored; see `explore` for the model, and for what is checked in each world.

The rules of `gunicorn_hot.arbiter` that all this assumes are listed in `explore.Shell`, and RULES here turns off each
of those that has a switch. What the shell does is copied by hand: who changes the arbiter changes it too.

If a test here fails, its message is the shortest history that leads to the forbidden world. A line that begins with
"!" is a fault or a signal, and the indented lines under a move are the steps of the machines.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from explore import Bounds, Model, Move, Shell, Violation, World

from gunicorn_hot import handover
from gunicorn_hot.handover import PredecessorState as P
from gunicorn_hot.handover import SuccessorState as S

#: Name -> bounds, and how many transitions there are at least, so that the model cannot shrink unnoticed.
SCENARIOS = {
    "an undisturbed upgrade": (Bounds(faults=0, signals=0), 20),
    "three deaths": (Bounds(faults=3, signals=0, new_workers=2), 10_000),
    "two deaths and a signal": (Bounds(faults=2, signals=1), 90_000),
    "broken channels": (Bounds(faults=3, signals=0, channels_break=True), 30_000),
    "no probation": (Bounds(faults=1, signals=1, probation=0), 15_500),
    "answers that lie in the link": (Bounds(faults=1, signals=1, slow_links=True), 26_500),
    "a pid that stays, and three deaths": (Bounds(faults=3, signals=0, keeps_pid=True), 7_500),
    "a pid that stays, a death and a signal": (Bounds(faults=1, signals=1, keeps_pid=True), 24_000),
    "a pid that stays, and two signals": (Bounds(faults=0, signals=2, keeps_pid=True), 80_000),
    "an operator who asks": (Bounds(faults=1, signals=1, requests=True), 25_000),
    "an operator who asks twice": (Bounds(faults=0, signals=2, new_workers=1, old_workers=1, requests=True), 53_000),
    "an operator who asks, of a pid that stays": (Bounds(faults=0, signals=1, keeps_pid=True, requests=True), 2_400),
    "two upgrades of a busy worker": (Bounds(faults=0, signals=2, old_workers=1, slow_links=True), 35_000),
}
#: On demand: up to half a minute each.
LONG_SCENARIOS = {
    "two signals": (Bounds(faults=0, signals=2), 51_000),
    "two signals and a death": (Bounds(faults=1, signals=2), 630_000),
    "an operator who asks twice, and a death": (Bounds(faults=1, signals=2, old_workers=1, requests=True), 200_000),
    "three deaths and a signal": (Bounds(faults=3, signals=1), 285_000),
}

Table = dict[tuple[Enum, type[handover.Event]], Any]


def explored(bounds: Bounds, at_least: int, record_property: Any) -> None:
    result = Model(bounds).explore()
    record_property("states", result.states)
    record_property("transitions", result.transitions)
    print(
        f"{result.states} states, {result.transitions} transitions, {result.depth} moves deep, "
        f"{result.ends} worlds at rest"
    )
    assert result.transitions >= at_least
    assert result.ends[""], "no history ended with a service that is up"


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_interleaving_keeps_the_promises(name: str, record_property: Any) -> None:
    explored(*SCENARIOS[name], record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG_SCENARIOS)
def test_every_longer_interleaving_keeps_the_promises(name: str, record_property: Any) -> None:
    explored(*LONG_SCENARIOS[name], record_property)


def test_the_exploration_meets_every_state_of_both_machines() -> None:
    met = Model(Bounds(faults=1, signals=1)).explore().met
    # What GONE and HALTING get is nothing: their master has left its main loop.
    assert {state for _, state, _ in met} == {state.name for state in (*P, *S)} - {"GONE", "HALTING"}
    words = {(state, event) for _, state, event in met if event in ("SuccessorLeft", "SuccessorStayed")}
    assert words >= {
        ("COMMITTING", "SuccessorLeft"), ("DRAINING", "SuccessorLeft"), ("DRAINING", "SuccessorStayed"),
        ("ENDING", "SuccessorLeft"),
    }  # fmt: skip


def history(model: Model, *moves: str) -> tuple[World, list[str]]:
    """Make these moves from a service at rest, each of which the exploration must offer; return also the transcript."""
    world, trace = model.start(), list[str]()
    for line in moves:
        fair, extra = model.moves(world)
        costs = line.startswith("! ")
        offered = {str(move): move for move in (extra if costs else fair)}
        if not trace:
            offered["master 0 gets SIGUSR2"] = Move("gets SIGUSR2", 0)
        world = model.apply(world, offered[line.removeprefix("! ")], costs, trace)
        model.check(world)
    return world, trace


COMMITTED = (
    "master 0 gets SIGUSR2",
    "master 1 has a worker ready (worker 0)",
    "master 0 reads its successor",
    "master 0 has a worker that reads its link (worker 0)",
    "master 0 has a worker that reads its link (worker 1)",
    "master 1 reads its predecessor",
    "master 0 reads its successor",
    "master 0 is out of patience",
    "master 1 reads its predecessor",
    "master 0 reads its successor",
)


def test_who_drains_takes_back_from_a_successor_whose_own_upgrade_has_failed() -> None:
    model = Model(Bounds(faults=2, signals=1))
    world, trace = history(
        model,
        *COMMITTED,
        "! master 1 gets SIGUSR2",
        "master 0 reads its successor",
        "! master 2 is killed",
        "master 1 reads its successor",
        "master 1 reaps its successor",
        "! master 1 is killed",
        "master 0 reads its successor",
        "master 0 reaps its successor",
    )
    assert [line.strip() for line in trace[trace.index("! master 1 gets SIGUSR2") :]] == [
        "! master 1 gets SIGUSR2",
        "SERVING -> BOOTING on UpgradeRequested: StartSuccessor",
        "BOOTING -> BOOTING on SuccessorSpawned: Log(info), Tell(leaving)",
        "master 0 reads its successor",
        "DRAINING -> DRAINING on SuccessorLeft: -",
        "! master 2 is killed",
        "master 1 reads its successor",
        "BOOTING -> ENDING on SuccessorClosed: -",
        "master 1 reaps its successor",
        "ENDING -> SERVING on SuccessorExited: RestoreOwnership, ReportFailure, Tell(staying)",
        "! master 1 is killed",
        "master 0 reads its successor",
        "DRAINING -> DRAINING on SuccessorStayed: -",
        "DRAINING -> ENDING on SuccessorClosed: ResumeWorkers, RestoreOwnership",
        "master 0 reaps its successor",
        "ENDING -> SERVING on SuccessorExited: RestoreOwnership, ReportFailure, Tell(staying)",
    ]
    assert (len(world.masters), world.pidfile, world.over) == (1, 0, "")


def test_who_drains_takes_back_also_when_the_second_upgrade_could_not_be_started_again() -> None:
    history(
        Model(Bounds(faults=1, signals=2)),
        *COMMITTED,
        "! master 1 gets SIGUSR2",
        "! master 1 gets SIGUSR2",
        "master 2 gets the predecessor's SIGTERM",
        "master 2 exits",
        "! master 1 reaps its successor and cannot fork",
    )


# --- Seeded bugs: the exploration must find each ------------------------------------------------------------


def without(table: Table, *actions: type[handover.Action]) -> Table:
    """Return a table whose handlers forget some actions."""

    def forgetful(handler: Any) -> Any:
        return lambda self, event, now: tuple(
            action for action in handler(self, event, now) if not isinstance(action, actions)
        )

    return {key: forgetful(handler) for key, handler in table.items()}


def patched(machine: type[handover.Machine], table: Table) -> Any:
    """Return a machine like `machine` with some handlers replaced."""
    return type(machine.__name__, (machine,), {"table": {**machine.table, **table}})


def ignores(self: Any, event: Any, now: float) -> handover.Actions:
    return ()


def opens_at_once(self: Any, event: Any, now: float) -> handover.Actions:
    self._become(P.OPENING, now, 1.0)
    return (handover.PauseWorkers(), handover.Tell("open"))


def owns_at_the_gate(self: Any, event: Any, now: float) -> handover.Actions:
    self.state = S.OPEN
    return (handover.OpenGate(), handover.TakeOwnership(), handover.Tell("opened"))


def drains_at_the_cutover(self: Any, event: Any, now: float) -> handover.Actions:
    self._become(P.PROBATION, now, 5.0)
    return (handover.DrainWorkers(30.0),)


def waits_for_ever(self: Any, event: Any, now: float) -> handover.Actions:
    self._become(P.OPENING, now)
    return (handover.Tell("open"),)


def never_serves_again(self: Any, event: Any, now: float) -> handover.Actions:
    self._become(P.GONE, now)
    return (handover.RestoreOwnership(),)


def starts_a_second(self: Any, event: Any, now: float) -> handover.Actions:
    return (handover.EndSuccessor(), handover.StartSuccessor())


def without_word(table: Table, word: str) -> Table:
    """Return a table whose handlers never say `word`."""

    def silent(handler: Any) -> Any:
        return lambda self, event, now: tuple(
            action for action in handler(self, event, now) if action != handover.Tell(word)
        )

    return {key: silent(handler) for key, handler in table.items()}


def raises(self: Any, event: Any, now: float) -> handover.Actions:
    raise handover.Unexpected(f"{type(event).__name__} in state {self.state.name}")


def cuts_over(self: Any, event: Any, now: float) -> handover.Actions:
    return (handover.ReportReady(),)


OLD, NEW = handover.Predecessor, handover.Successor
SEEDED: dict[str, tuple[Any, Any, str]] = {
    "a gate that opens before the pauses are answered": (
        patched(OLD, {(P.BOOTING, handover.ReadyReported): opens_at_once}), NEW,
        "two generations accept",
    ),
    "a rollback that does not resume": (
        patched(OLD, without(OLD.table, handover.ResumeWorkers)), NEW,
        "at rest all workers must accept",
    ),
    "a rollback that does not restore the pid file": (
        patched(OLD, without(OLD.table, handover.RestoreOwnership)), NEW,
        "the pid file names",
    ),
    "an EOF that is ignored in the probation": (
        patched(OLD, {(P.PROBATION, handover.SuccessorClosed): ignores}), NEW,
        "PROBATION, and knows that its successor is gone",
    ),
    "a death that is ignored while draining": (
        patched(OLD, {(P.DRAINING, handover.SuccessorClosed): ignores,
                      (P.DRAINING, handover.SuccessorExited): ignores}), NEW,
        "DRAINING, and knows that its successor is gone",
    ),
    "a drain that begins before the commit": (
        patched(OLD, {(P.OPENING, handover.GateOpened): drains_at_the_cutover}), NEW,
        "its successor has not committed",
    ),
    "a wait without a bound": (
        patched(OLD, {(P.PAUSING, handover.WorkerPaused): waits_for_ever}), NEW,
        "OPENING without a bound",
    ),
    "an upgrade that is the last": (
        patched(OLD, {(P.ENDING, handover.SuccessorExited): never_serves_again}), NEW,
        "at rest the master must be SERVING",
    ),
    "a second successor beside the first (needs a signal)": (
        patched(OLD, {(P.BOOTING, handover.UpgradeRequested): starts_a_second}), NEW,
        "starts a successor, and has one",
    ),
    "a cell that raises": (
        patched(OLD, {(P.PAUSING, handover.SuccessorClosed): raises}), NEW,
        "a machine raised Unexpected: SuccessorClosed in state PAUSING",
    ),
    "a departure in the commit that raises (needs a signal)": (
        patched(OLD, {(P.COMMITTING, handover.SuccessorLeft): raises}), NEW,
        "a machine raised Unexpected: SuccessorLeft in state COMMITTING",
    ),
    "a second upgrade that no predecessor is told of (needs a signal)": (
        patched(OLD, without_word(OLD.table, "leaving")), NEW,
        "would take back from master 1, which has a successor",
    ),
    "a failed second upgrade that no predecessor is told of (needs a signal)": (
        patched(OLD, without_word(OLD.table, "staying")), NEW,
        "would not take back from master 1, which has no successor",
    ),
    "a failed second upgrade that a predecessor does not care for (needs a signal)": (
        patched(OLD, {(P.DRAINING, handover.SuccessorStayed): ignores}), NEW,
        "would not take back from master 1, which has no successor",
    ),
    "a departure that is no reason to let go (needs a signal)": (
        patched(OLD, {(P.DRAINING, handover.SuccessorLeft): ignores}), NEW,
        "would take back from master 1, which has a successor",
    ),
    "a check that does not end (where somebody asks)": (
        patched(OLD, {(P.BOOTING, handover.SuccessorReady): cuts_over}), NEW,
        "a mere check has paused its workers",
    ),
    "an abort that leaves the workers paused (where somebody asks)": (
        patched(OLD, without({key: handler for key, handler in OLD.table.items()
                              if key[1] is handover.AbortRequested}, handover.ResumeWorkers)), NEW,
        "at rest all workers must accept",
    ),
    "ownership that is taken at the gate": (
        OLD, patched(NEW, {(S.READY, handover.GateOrdered): owns_at_the_gate}),
        "the pid file names",
    ),
    "an EOF that is forgotten in READY": (
        OLD, patched(NEW, {(S.READY, handover.PredecessorClosed): ignores}),
        "knows that its predecessor is gone, and is READY",
    ),
    "a commit by which nothing is taken": (
        OLD, patched(NEW, without(NEW.table, handover.TakeOwnership)),
        "the pid file",
    ),
    "a pid that does not stay (where it should)": (
        patched(OLD, without(OLD.table, handover.KeepPid)), NEW,
        "the service goes on, and its pid ends",
    ),
    "a stop that does not reach the successor (needs a signal, where its pid stays)": (
        patched(OLD, without(OLD.table, handover.StopService)), NEW,
        "the service was stopped, and masters",
    ),
    "a gate that stays shut without a predecessor": (
        OLD, patched(NEW, without({key: handler for key, handler in NEW.table.items()
                                   if key[1] is handover.PredecessorClosed}, handover.OpenGate)),
        "at rest all workers must accept",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", SEEDED)
def test_a_seeded_bug_is_found(bug: str) -> None:
    old, new, words = SEEDED[bug]
    asks = "somebody asks" in bug
    bounds = Bounds(
        faults=1, signals=int(asks or "needs a signal" in bug), keeps_pid="where its" in bug or "where it " in bug,
        requests=asks,
    )  # fmt: skip
    with pytest.raises(Violation, match=words):
        Model(bounds, old, new).explore()


# --- Rules of the arbiter, each of which is needed ----------------------------------------------------------

RULES: dict[str, tuple[Bounds, Shell, str]] = {
    "what was said in time is read before the clock is looked at": (
        Bounds(faults=1, signals=1), Shell(reads_before_it_judges=False), "two generations accept",
    ),
    "a successor is reaped before workers": (
        Bounds(faults=1, signals=0), Shell(reaps_the_successor_first=False),
        "at rest there must be one master",
    ),
    "the last words of a dead successor are read": (
        Bounds(faults=1, signals=1), Shell(hears_last_words=False), "the pid file names",
    ),
    "a successor that has been reaped gets no signal": (
        Bounds(faults=1, signals=0), Shell(signals_no_reaped_pid=False), "a pid that has been reaped",
    ),
    "a draining predecessor hears that its successor stays": (
        Bounds(faults=1, signals=1), Shell(hears_who_stays=False), "would not take back from master 1",
    ),
    "the file of a unix socket is left to a predecessor that lives": (
        Bounds(faults=2, signals=0), Shell(spares_a_predecessors_sockets=False), "file was unlinked",
    ),
    "whoever takes over from a master that was told to stop is told, too": (
        Bounds(faults=0, signals=2, keeps_pid=True), Shell(stops_heirs=False), "the service was stopped, and masters",
    ),
    "a master does not outlive the process that has the service's pid": (
        Bounds(faults=1, signals=0, keeps_pid=True), Shell(stops_without_its_holder=False),
        "the service was stopped, and masters",
    ),
    "an answer to an earlier pause does not count": (
        Bounds(faults=0, signals=2, old_workers=1, slow_links=True), Shell(counts_answers=False),
        "two generations accept",
    ),
}  # fmt: skip


def test_every_switch_of_the_shell_is_turned_off_by_a_rule() -> None:
    off = [name for _, shell, _ in RULES.values() for name, on in vars(shell).items() if not on]
    assert sorted(off) == sorted(vars(Shell()))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_of_the_arbiter_is_needed(rule: str) -> None:
    bounds, shell, words = RULES[rule]
    with pytest.raises(Violation, match=words):
        Model(bounds, shell=shell).explore()


def test_a_violation_tells_the_shortest_history() -> None:
    machine = patched(OLD, {(P.BOOTING, handover.SuccessorClosed): ignores})
    with pytest.raises(Violation) as caught:
        Model(Bounds(faults=1, signals=0), machine).explore()
    first, *history = str(caught.value).splitlines()
    assert first == "master 0 is BOOTING, and knows that its successor is gone, after:"
    assert [line for line in history if not line.startswith("      ")] == [
        "  master 0 gets SIGUSR2",
        "! master 1 is killed",
        "  master 0 reads its successor",
    ]
    assert history[-1] == "      BOOTING -> BOOTING on SuccessorClosed: -"
