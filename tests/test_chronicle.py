"""What became of each upgrade: outcomes, phases, counts, and how the record goes from master to master."""

from __future__ import annotations

import dataclasses

from gunicorn_hot.chronicle import OUTPUT, Chronicle
from gunicorn_hot.status import HISTORY, Durations, Phases, Service, Status, Written


def begun(check: bool = False) -> Chronicle:
    made = Chronicle()
    made.began("id", check, 3, 100.0)
    return made


def written(by: Chronicle) -> Status:
    return Status(
        Service(1, "", "follow", None, "", []), Written(1, 1, "", 0), "upgrading", 3, by.upgrade or by.inherited, [],
        by.history, by.totals,
    )  # fmt: skip


def test_an_upgrade_from_master_to_master() -> None:
    old = begun()
    old.paused(104.0)
    old.opened(104.002)
    old.committing(109.0)
    new = Chronicle()
    new.take_over(written(old), 109.5)
    assert new.inherited == old.upgrade
    assert new.history == []
    new.drained(112.0, "", cut=2)
    (past,) = new.history
    assert (past.id, past.number, past.outcome, past.reason, past.cut) == ("id", 1, "done", "", 2)
    assert (past.generation_from, past.generation_to, past.started, past.duration) == (3, 4, 100.0, 12.0)
    assert past.phases == Phases(boot=4.0, cutover_ms=2.0, probation=4.998, drain=2.5)
    assert (new.totals.upgrades["done"], new.totals.cut, new.totals.duration.count) == (1, 2, 1)
    assert new.inherited is None
    new.drained(113.0, "", 5)
    assert len(new.history) == 1


def test_outcomes() -> None:
    def outcome(made: Chronicle) -> str:
        made.over(110.0)
        assert made.upgrade is None
        assert made.totals.upgrades[made.history[0].outcome] == 1
        assert not made.totals.duration.count
        return made.history[0].outcome

    def failed(check: bool = False, cut_over: bool = False, aborted: bool = False, committed: bool = False) -> str:
        made = begun(check)
        if cut_over:
            made.paused(104.0)
        made.failed("why", "Traceback", aborted, committed)
        return outcome(made)

    assert failed() == "failed"
    assert failed(aborted=True) == "aborted"
    assert failed(cut_over=True) == failed(cut_over=True, aborted=True) == "rolled-back"
    assert failed(cut_over=True, committed=True) == "taken-back"
    assert failed(check=True) == "check-failed"
    assert failed(check=True, aborted=True) == "aborted"
    made = begun(check=True)
    made.checked(104.0)
    assert outcome(made) == "checked"
    assert made.history[0].phases.boot == 4.0


def test_a_failure_keeps_its_reason_and_the_end_of_what_the_application_wrote() -> None:
    made = begun()
    made.failed("why", "x" * OUTPUT + "the end", aborted=False, committed=False)
    assert made.upgrade is not None
    assert made.upgrade.reason == "why"
    assert made.history == []
    made.over(110.0)
    assert made.history[0].reason == "why"
    assert (len(made.history[0].output), made.history[0].output[-7:]) == (OUTPUT, "the end")


def test_one_that_is_replaced_is_over_when_the_next_begins() -> None:
    made = begun()
    made.began("next", False, 3, 105.0)
    assert [(past.id, past.outcome) for past in made.history] == [("id", "aborted")]
    assert made.upgrade is not None
    assert (made.upgrade.id, made.upgrade.number) == ("next", 2)


def test_one_that_begins_while_the_last_one_drains() -> None:
    made = Chronicle()
    made.take_over(written(begun()), 104.0)
    made.began("next", False, 4, 105.0)
    assert made.upgrade is not None
    assert made.upgrade.number == 2
    made.committing(110.0)
    # Whoever goes on with this does not know that one.
    assert [(past.id, past.outcome) for past in made.history] == [("id", "done")]


def test_the_history_ends_and_the_counts_do_not() -> None:
    made = Chronicle()
    for number in range(HISTORY + 3):
        made.began(str(number), False, 1, 0.0)
        made.failed("", "", False, False)
        made.over(1.0)
    assert [past.id for past in made.history] == [str(HISTORY + 2 - n) for n in range(HISTORY)]
    assert made.totals.upgrades["failed"] == HISTORY + 3
    assert made.history[0].number == HISTORY + 3


def test_what_a_successor_has_written_meanwhile_is_not_lost() -> None:
    old, new = begun(), Chronicle()
    new.take_over(written(old), 101.0)
    new.began("its own", False, 4, 102.0)
    new.failed("", "", False, False)
    new.over(103.0)
    old.take_back(written(new))
    old.failed("it died", "", False, committed=True)
    old.over(110.0)
    assert [(past.id, past.outcome) for past in old.history] == [("id", "taken-back"), ("its own", "failed")]


def test_without_a_file_it_begins_anew() -> None:
    made = Chronicle()
    made.take_over(None, 1.0)
    made.drained(2.0, "", 0)
    assert (made.history, made.inherited) == ([], None)


def test_the_histogram_is_cumulative() -> None:
    made = Chronicle()
    for seconds in (0.5, 2.0, 1000.0):
        made.take_over(dataclasses.replace(written(begun()), history=made.history, totals=made.totals), 100.0)
        made.drained(100.0 + seconds, "", 0)
    durations: Durations = made.totals.duration
    assert (durations.count, durations.sum) == (3, 1002.5)
    assert (durations.buckets["1"], durations.buckets["2.5"], durations.buckets["600"]) == (1, 2, 2)
    assert durations.buckets["+Inf"] == 3
