"""Upgrades for Prometheus (extra ``prometheus``)::

    from prometheus_client import REGISTRY
    from gunicorn_hot.metrics import Collector

    REGISTRY.register(Collector())

in the application, or on any registry of its own. With prometheus_client's multiprocess mode: on the registry that the
MultiProcessCollector is registered on. All figures are the service's, read from its status file when somebody asks for
them: each worker of each generation answers the same, and nothing has to be added up. They begin anew with the service.

``gunicorn_hot_up``                             1: there is a status, and its writer lives; 0: what follows is absent;
                                                absent itself: it is not this process's to know (see `Collector`)
``gunicorn_hot_generation``                     the generation that serves
``gunicorn_hot_upgrades_total{outcome}``        upgrades that are over, by outcome: done, failed, rolled-back, ...
``gunicorn_hot_upgrade_duration_seconds``       histogram of those that are done: from the signal to the drain's end
``gunicorn_hot_upgrade_running``                1: one is under way, its drain included
``gunicorn_hot_draining_requests``              requests in flight in the old generation
``gunicorn_hot_cut_requests_total``             requests that did not end within hot_drain_timeout
``gunicorn_hot_workers{state}``                 workers of all generations: booting, ready, serving, paused, draining
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

try:
    from prometheus_client import Metric
    from prometheus_client import registry as prometheus
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
except ImportError as exc:
    raise ImportError("gunicorn_hot.metrics needs prometheus-client: pip install gunicorn_hot[prometheus]") from exc

from gunicorn_hot import statusfile
from gunicorn_hot.status import OUTCOMES, Status, StatusError, parse

_WORKER_STATES = ("booting", "ready", "serving", "paused", "draining")


class Collector(prometheus.Collector):
    """Collects from the status file `path`; None: that of the service which this process is a worker of.

    Without such a service, as in a test of the application or under a stock gunicorn, ``gunicorn_hot_up`` is 0.

    A status file that another user has yields nothing. Workers that run as another user than their master (`user`) are
    shown the status by that, until they drain: from then on they know nothing."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path

    def describe(self) -> Iterator[Metric]:
        """What could be collected; for the registry, which need not read the file for that."""
        return iter([_up(False), *_families()])

    def collect(self) -> Iterator[Metric]:
        """Read the file, and yield what it says. Raises nothing."""
        try:
            status = self._read()
        except OSError:
            return  # it may well be up
        yield _up(status is not None)
        if status is not None:
            yield from _filled(status)

    def _read(self) -> Status | None:
        """Raises OSError when there may be a status that this process cannot know."""
        if self._path is None and statusfile.mirror is not None:
            text = statusfile.mirror.read()
            if not text:
                raise PermissionError
            status = parse(text)
            return status if status.written.pid == os.getppid() else None
        path = statusfile.own_path if self._path is None else self._path
        if not path:
            return None
        try:
            status = parse(statusfile.read_own(path, anybodys=os.geteuid() == 0))
        except (FileNotFoundError, StatusError):
            return None
        return None if status.is_stale() else status


def _up(is_up: bool) -> GaugeMetricFamily:
    return GaugeMetricFamily("gunicorn_hot_up", "Whether the service's status can be read, and is true.", int(is_up))


def _families() -> tuple[
    GaugeMetricFamily, CounterMetricFamily, HistogramMetricFamily, GaugeMetricFamily, GaugeMetricFamily,
    CounterMetricFamily, GaugeMetricFamily,
]:
    return (
        GaugeMetricFamily("gunicorn_hot_generation", "The generation that serves."),
        CounterMetricFamily("gunicorn_hot_upgrades", "Upgrades that are over.", labels=["outcome"]),
        HistogramMetricFamily(
            "gunicorn_hot_upgrade_duration_seconds", "How long the upgrades took that are done.", labels=[]
        ),
        GaugeMetricFamily("gunicorn_hot_upgrade_running", "Whether an upgrade is under way."),
        GaugeMetricFamily("gunicorn_hot_draining_requests", "Requests in flight in the old generation."),
        CounterMetricFamily("gunicorn_hot_cut_requests", "Requests that did not end within hot_drain_timeout."),
        GaugeMetricFamily("gunicorn_hot_workers", "Workers of all generations.", labels=["state"]),
    )


def _filled(status: Status) -> Iterator[Metric]:
    families = _families()
    generation, upgrades, duration, running, draining, cut, workers = families
    totals, upgrade = status.totals, status.upgrade
    generation.add_metric([], status.generation)
    for outcome in dict.fromkeys([*OUTCOMES, *totals.upgrades]):
        upgrades.add_metric([outcome], totals.upgrades.get(outcome, 0))
    buckets = sorted((float(bound), count) for bound, count in totals.duration.buckets.items())
    named = [("+Inf" if math.isinf(bound) else str(bound), count) for bound, count in buckets]
    duration.add_metric([], named, totals.duration.sum)
    running.add_metric([], int(upgrade is not None))
    draining.add_metric([], upgrade.draining_requests if upgrade is not None else 0)
    cut.add_metric([], totals.cut)
    counts = dict.fromkeys(_WORKER_STATES, 0)
    for master in status.masters:
        for worker in master.workers:
            counts[worker.state] = counts.get(worker.state, 0) + 1
    for state, count in counts.items():
        workers.add_metric([state], count)
    yield from families
