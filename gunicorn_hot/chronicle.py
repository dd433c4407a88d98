"""The upgrade that is under way, and what became of the earlier ones.

Pure: whoever writes the status tells it what happened, and when, in seconds on the wall clock. One chronicle goes from
master to master: a new one reads it from the file that the old one has written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gunicorn_hot.status import BUCKETS, HISTORY, Durations, Past, Status, Totals, Upgrade

#: Of what an application has written, this many characters of the end are kept.
OUTPUT = 4096


def _nobody(past: Past) -> None:
    pass


class Chronicle:
    """`tell` is called with each upgrade when it is over, by the one master in which it ends."""

    def __init__(self, tell: Callable[[Past], None] = _nobody) -> None:
        self._tell = tell
        #: The one that this master does, as the old one.
        self.upgrade: Upgrade | None = None
        #: The one that has made this master the service, while its predecessor drains.
        self.inherited: Upgrade | None = None
        self.history: list[Past] = []
        self.totals = Totals()
        #: When the present phase began.
        self._since = 0.0
        #: What the upgrade will be called when it is over: outcome, reason, output.
        self._verdict: tuple[str, str, str] | None = None

    # --- in the old master

    def began(self, id: str, check: bool, generation: int, at: float) -> None:
        """A master of this generation starts a successor. One that was replaced by this is over."""
        self.over(at)
        number = 1 + sum(self.totals.upgrades.values()) + (self.inherited is not None)
        self.upgrade = Upgrade(id, number, "booting", check, at, generation=generation)

    def paused(self, at: float) -> None:
        """The workers were told to pause: the cut-over begins."""
        self._phase(at, boot=at - self.upgrade.started if self.upgrade else 0.0)

    def opened(self, at: float) -> None:
        """The new generation accepts."""
        self._phase(at, cutover_ms=(at - self._since) * 1000)

    def committing(self, at: float) -> None:
        """The successor is told to take over: its chronicle begins where this one ends."""
        self._phase(at, probation=at - self._since)
        self.drained(at, "", 0)

    def _phase(self, at: float, **took: float) -> None:
        if self.upgrade is not None:
            took = {name: round(max(0.0, seconds), 4) for name, seconds in took.items()}
            self.upgrade = replace(self.upgrade, phases=replace(self.upgrade.phases, **took))
        self._since = at

    def failed(self, reason: str, output: str, aborted: bool, committed: bool) -> None:
        """It was given up; `over` will follow when nothing is left of it."""
        if self.upgrade is None:
            return
        if committed:
            outcome = "taken-back"
        elif self.upgrade.phases.boot:
            outcome = "rolled-back"
        elif aborted:
            outcome = "aborted"
        else:
            outcome = "check-failed" if self.upgrade.check else "failed"
        self.upgrade = replace(self.upgrade, reason=reason)
        self._verdict = (outcome, reason, output)

    def checked(self, at: float) -> None:
        """It would have worked."""
        self._phase(at, boot=at - self.upgrade.started if self.upgrade else 0.0)
        self._verdict = ("checked", "", "")

    def over(self, at: float) -> None:
        """Nothing is left of the successor, if there was one."""
        upgrade, self.upgrade = self.upgrade, None
        verdict, self._verdict = self._verdict, None
        if upgrade is not None:
            outcome, reason, output = verdict or ("aborted", "asked for again, and replaced by that", "")
            self._enter(upgrade, at, outcome, reason, output)

    # --- in the new master

    def take_over(self, written: Status | None, at: float) -> None:
        """This master is the service now, and goes on with what the old one has written."""
        self.take_back(written)
        self.inherited = written.upgrade if written is not None else None
        self._since = at

    def take_back(self, written: Status | None) -> None:
        """A successor that had taken over has written meanwhile what became of upgrades of its own."""
        if written is not None:
            self.history, self.totals = written.history, written.totals

    def drained(self, at: float, reason: str, cut: int) -> None:
        """The old master has left: the upgrade is done."""
        upgrade, self.inherited = self.inherited, None
        if upgrade is not None:
            drain = round(max(0.0, at - self._since), 4)
            self._enter(replace(upgrade, phases=replace(upgrade.phases, drain=drain)), at, "done", reason, cut=cut)

    # --- both

    def _enter(
        self, upgrade: Upgrade, at: float, outcome: str, reason: str, output: str = "", cut: int = 0
    ) -> None:
        past = Past(
            upgrade.id, upgrade.number, upgrade.generation, upgrade.generation + 1, upgrade.started,
            round(max(0.0, at - upgrade.started), 3), outcome, upgrade.phases, reason, output[-OUTPUT:], cut,
        )  # fmt: skip
        self.history = [past, *self.history][:HISTORY]
        totals = self.totals
        upgrades = {**totals.upgrades, outcome: totals.upgrades.get(outcome, 0) + 1}
        duration = _counted(totals.duration, past.duration) if outcome == "done" else totals.duration
        self.totals = Totals(upgrades, duration, totals.cut + cut)
        self._tell(past)


def _counted(durations: Durations, seconds: float) -> Durations:
    buckets = {name: durations.buckets.get(name, 0) + (seconds <= float(name)) for name in BUCKETS}
    return Durations(buckets, round(durations.sum + seconds, 3), durations.count + 1)
