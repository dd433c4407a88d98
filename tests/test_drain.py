"""What a worker may do with connections, in each phase, and at which time."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest

from gunicorn_hot.drain import Drain, InFlight, Phase


def accepting() -> Drain:
    return Drain()


def paused() -> Drain:
    drain = Drain()
    drain.pause()
    return drain


def draining() -> Drain:
    drain = Drain()
    drain.drain(now=100.0, timeout=30.0)
    return drain


def paused_then_draining() -> Drain:
    drain = paused()
    drain.drain(now=100.0, timeout=30.0)
    return drain


PHASES = [accepting, paused, draining, paused_then_draining]
IN_EACH_PHASE = pytest.mark.parametrize("make", PHASES, ids=lambda make: make.__name__)
NOT_DRAINING = pytest.mark.parametrize("make", [accepting, paused], ids=lambda make: make.__name__)
IN_DRAIN = pytest.mark.parametrize("make", [draining, paused_then_draining], ids=lambda make: make.__name__)
Make = Callable[[], Drain]


def test_a_new_worker_accepts() -> None:
    drain = Drain()
    assert drain.phase is Phase.ACCEPTING
    assert drain.accepting
    assert not drain.draining
    assert drain.deadline is None


def test_a_paused_worker_does_not_accept_and_does_not_leave() -> None:
    drain = paused()
    assert drain.phase is Phase.PAUSED
    assert not drain.accepting
    assert not drain.draining
    assert not drain.done(connections=0)


def test_a_second_pause_changes_nothing() -> None:
    drain = paused()
    drain.pause()
    assert drain.phase is Phase.PAUSED


@IN_DRAIN
def test_a_draining_worker_does_not_accept_and_has_a_deadline(make: Make) -> None:
    drain = make()
    assert drain.phase is Phase.DRAINING
    assert drain.draining
    assert not drain.accepting
    assert drain.deadline == 130.0


@IN_DRAIN
def test_a_pause_does_not_end_a_drain(make: Make) -> None:
    drain = make()
    drain.pause()
    assert drain.phase is Phase.DRAINING
    assert drain.deadline == 130.0


@pytest.mark.parametrize("timeout", [1.0, 300.0])
@IN_DRAIN
def test_a_second_drain_does_not_move_the_deadline(make: Make, timeout: float) -> None:
    drain = make()
    drain.drain(now=110.0, timeout=timeout)
    assert drain.deadline == 130.0


@IN_EACH_PHASE
def test_a_resumed_worker_accepts_as_a_new_one_does(make: Make) -> None:
    drain = make()
    drain.resume()
    assert vars(drain) == vars(Drain())


def test_a_drain_after_a_resume_has_a_deadline_of_its_own() -> None:
    drain = draining()
    drain.resume()
    drain.drain(now=200.0, timeout=5.0)
    assert drain.deadline == 205.0


@IN_DRAIN
def test_a_draining_worker_leaves_when_it_holds_no_connection(make: Make) -> None:
    drain = make()
    assert not drain.done(connections=2)
    assert not drain.done(connections=1)
    assert drain.done(connections=0)


@NOT_DRAINING
def test_a_worker_that_does_not_drain_is_never_done(make: Make) -> None:
    assert not make().done(connections=0)


@NOT_DRAINING
def test_a_worker_that_does_not_drain_is_never_overdue_and_waits_a_tick(make: Make) -> None:
    drain = make()
    assert not drain.overdue(now=1e9)
    assert drain.wait(now=1e9, tick=1.0) == 1.0


@pytest.mark.parametrize(("now", "overdue"), [(100.0, False), (129.9, False), (130.0, True), (131.0, True)])
def test_a_drain_is_overdue_from_its_deadline_on(now: float, overdue: bool) -> None:
    assert draining().overdue(now) is overdue


@pytest.mark.parametrize(("now", "seconds"), [(100.0, 1.0), (129.0, 1.0), (129.75, 0.25), (130.0, 0), (140, 0)])
def test_a_draining_worker_waits_no_longer_than_its_deadline(now: float, seconds: float) -> None:
    assert draining().wait(now, tick=1.0) == seconds


def test_a_drain_without_patience_is_overdue_at_once() -> None:
    drain = Drain()
    drain.drain(now=100.0, timeout=0.0)
    assert drain.overdue(now=100.0)
    assert drain.wait(now=100.0, tick=1.0) == 0.0


# --- InFlight -----------------------------------------------------------------------------------------------


class Request:
    """What InFlight needs of a request of gunicorn's."""

    def __init__(self, should_close: Callable[[], bool]) -> None:
        self.should_close = should_close


def asked(wish: Callable[[], bool], drain: Drain) -> InFlight:
    return InFlight(Request(wish), drain, now=7.0)


def keep() -> bool:
    return False


def close() -> bool:
    return True


def test_a_connection_is_kept_while_the_worker_accepts() -> None:
    assert asked(keep, accepting())() is False


@pytest.mark.parametrize("make", [paused, draining], ids=lambda make: make.__name__)
def test_a_connection_is_closed_after_a_response_that_begins_later_than_the_pause(make: Make) -> None:
    assert asked(keep, make())() is True


@pytest.mark.parametrize("wish", [keep, close])
def test_a_connection_is_kept_while_more_requests_were_received(wish: Callable[[], bool]) -> None:
    questions = []

    def more_received(request: Request) -> bool:
        questions.append(request)
        return len(questions) < 3

    drain = Drain(more_received)
    assert not InFlight(Request(keep), drain, now=7.0)()
    assert not questions    # it costs a system call
    drain.pause()
    assert [InFlight(Request(wish), drain, now=7.0)() for _ in range(3)] == (
        [False, False, True] if wish is keep else [True, True, True]
    )


@IN_EACH_PHASE
def test_a_client_that_wants_to_close_is_obeyed_in_each_phase(make: Make) -> None:
    assert asked(close, make())() is True


def start_drain(drain: Drain) -> None:
    drain.drain(100.0, 30.0)


@pytest.mark.parametrize("change", [Drain.pause, start_drain], ids=["pause", "drain"])
def test_what_was_announced_as_kept_is_kept_although_the_worker_stops_accepting(
    change: Callable[[Drain], None],
) -> None:
    drain = accepting()
    should_close = asked(keep, drain)
    assert should_close() is False
    change(drain)
    assert should_close() is False


@pytest.mark.parametrize("make", [paused, draining], ids=lambda make: make.__name__)
def test_what_was_announced_as_closed_is_closed_when_the_worker_resumes(make: Make) -> None:
    drain = make()
    should_close = asked(keep, drain)
    assert should_close() is True
    drain.resume()
    assert should_close() is True


def test_the_phase_counts_when_the_question_is_asked_and_not_when_the_request_came() -> None:
    drain = accepting()
    should_close = asked(keep, drain)
    drain.pause()
    assert should_close() is True


def test_the_client_is_asked_once() -> None:
    answers = iter([False, True])
    should_close = asked(lambda: next(answers), accepting())
    assert [should_close(), should_close(), should_close()] == [False, False, False]


def test_each_request_has_an_answer_of_its_own() -> None:
    drain = accepting()
    first, second = asked(keep, drain), asked(keep, drain)
    assert first() is False
    drain.pause()
    assert (first(), second()) == (False, True)


def test_a_request_that_has_ended_is_not_kept_in_memory() -> None:
    request = Request(keep)
    entry = InFlight(request, accepting(), now=7.0)
    request.should_close = entry
    gone = weakref.ref(request)
    entry.end()
    del request
    assert gone() is None
    assert entry.started == 7.0
