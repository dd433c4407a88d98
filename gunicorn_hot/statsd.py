"""Upgrades for statsd, through gunicorn's logger, as gunicorn says the rest: `statsd_host`, `statsd_prefix` and
`dogstatsd_tags` are obeyed, and any other logger gets lines of the level debug.

    gunicorn.hot.upgrade.duration     timer, ms: from the signal to the end of the drain, of an upgrade that is done
    gunicorn.hot.upgrade.<outcome>    counter: done, failed, rolled_back, taken_back, aborted, checked, check_failed
    gunicorn.hot.stall                timer, ms: from the order to pause until the new generation accepts
    gunicorn.hot.cut                  counter: requests that did not end within hot_drain_timeout
    gunicorn.hot.generation           gauge: the generation that serves
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gunicorn_hot.status import Past

_PREFIX = "gunicorn.hot"


def say_generation(log: Any, generation: int) -> None:
    """In the master that serves from now on."""
    _say(log, "generation", generation, "gauge")


def say_upgrade(log: Any, past: Past) -> None:
    """In the master in which the upgrade has ended; once for each."""
    _say(log, f"upgrade.{past.outcome.replace('-', '_')}", 1, "counter")
    if past.phases.cutover_ms:
        _say(log, "stall", past.phases.cutover_ms, "timer")
    if past.outcome == "done":
        _say(log, "upgrade.duration", past.duration * 1000, "timer")
    if past.cut:
        _say(log, "cut", past.cut, "counter")


def _say(log: Any, name: str, value: float, kind: str) -> None:
    value = round(value, 3)
    # The names that gunicorn's statsd logger looks for in a record.
    log.debug("%s.%s: %s", _PREFIX, name, value, extra={"metric": f"{_PREFIX}.{name}", "value": value, "mtype": kind})
