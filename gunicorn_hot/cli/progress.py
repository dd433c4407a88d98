"""What a status says about one upgrade, in words. Pure: a status in, a `Step` out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from gunicorn_hot.status import Past, Phases, Status, Upgrade

#: Outcomes of an upgrade, or of a check, that has been what was asked for.
GOOD = frozenset({"done", "checked"})

_IN_WORDS = {
    "cutting-over": "cut-over: the old workers pause, the new ones begin",
    "probation": "probation: the new generation serves, the old one can take back",
    "committing": "committing",
}
_FAILURES = {
    "check-failed": "an upgrade would fail",
    "rolled-back": "rolled back",
    "taken-back": "taken back",
}


@dataclass(frozen=True)
class Step:
    """Where an upgrade is."""

    state: str
    text: str
    #: Wall clock: when it is over at the latest; None without a bound.
    deadline: float | None = None
    #: Its figures change many times a second.
    moving: bool = False
    #: How it ended; empty while it goes on.
    outcome: str = ""
    #: What the application printed, if that is why it failed.
    output: str = ""
    #: The same, for a program.
    details: dict[str, Any] = field(default_factory=dict)

    def at(self, now: float) -> str:
        """Return the text, with the seconds that are left at `now` (wall clock)."""
        if self.deadline is None or self.outcome:
            return self.text
        return f"{self.text}, {max(0, math.ceil(self.deadline - now))} s left"


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def step(status: Status, identity: str) -> Step | None:
    """Return where the upgrade of this id is, or None if this status does not know it."""
    past = status.past(identity)
    if past is not None:
        return ended(past, status)
    if status.upgrade is not None and status.upgrade.id == identity:
        return going_on(status.upgrade)
    return None


def refusal(status: Status, identity: str) -> str | None:
    """Return why the request of this id has been refused, or None."""
    refused = status.refused
    return refused.reason or "refused" if refused is not None and refused.id == identity else None


def going_on(upgrade: Upgrade) -> Step:
    # Without a deadline the new master writes, which has not been told yet how much there is to drain.
    moving = upgrade.state == "draining" and upgrade.deadline is not None
    return Step(upgrade.state, _in_words(upgrade), upgrade.deadline, moving, details=asdict(upgrade))


def _in_words(upgrade: Upgrade) -> str:
    if upgrade.state == "booting":
        counted = f": {upgrade.ready} of {count(upgrade.total, 'worker')} ready" if upgrade.total else ""
        waits = f" ({upgrade.waits_for})" if upgrade.waits_for else ""
        return f"booting{counted}{waits}"
    if upgrade.state == "draining":
        requests, workers = upgrade.draining_requests, upgrade.draining_workers
        if not workers:
            return "committed; the old generation leaves"
        return f"committed; draining: {count(requests, 'request')} in {count(workers, 'old worker')}"
    if upgrade.state == "ending":
        return "ending the new generation"
    return _IN_WORDS.get(upgrade.state, upgrade.state)


def ended(past: Past, status: Status) -> Step:
    """Return how an upgrade has ended; `status` tells who serves now."""
    took = f"{past.duration:.1f} s"
    if past.outcome == "done":
        text = f"done in {took}: generation {past.generation_to} serves"
        if past.reason:
            # Not by the rules: an old master that has died has told neither how long it took nor what was cut.
            text = f"{text}, {count(past.cut, 'request')} known to be cut; {past.reason}"
        else:
            text = f"{text} ({_phases(past.phases)}), {count(past.cut, 'request')} cut"
    elif past.outcome == "checked":
        text = f"checked in {took}: the new release boots, an upgrade would work; nothing was changed"
    else:
        reason = past.reason or "no reason was given"
        verb = _FAILURES.get(past.outcome, past.outcome)
        text = f"{verb} after {took}: {reason}; generation {status.generation} serves on"
    return Step(past.outcome, text, outcome=past.outcome, output=past.output, details=asdict(past))


def _phases(phases: Phases) -> str:
    return (
        f"boot {phases.boot:.1f} s, cut-over {phases.cutover_ms:.1f} ms, probation {phases.probation:.1f} s, "
        f"drain {phases.drain:.1f} s"
    )
