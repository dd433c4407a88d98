"""Many signals at once, and many upgrades in a row: one service is left, and nothing that grows."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence

import pytest
from outside import check_sole, descriptors, environment_of, resident, settle, shape, threads, unnoticed, zombies
from server import Service, until

#: A master that was executed by another has these beyond what the first one has; no later one has more.
OURS = ("GUNICORN_HOT", "GUNICORN_PID", "GUNICORN_FD", "LISTEN_")
#: Memory that comes and goes with the allocator's moods.
RSS_TOLERANCE = 0.04


def storm(service: Service, gaps: Sequence[float]) -> None:
    """Send SIGUSR2 to the master, and again after each of the gaps, in s, until it is gone."""
    service.signal(signal.SIGUSR2)
    for gap in gaps:
        end = time.perf_counter() + gap
        # A sleep of a millisecond takes as long as the kernel likes.
        while time.perf_counter() < end:
            pass
        try:
            service.signal(signal.SIGUSR2)
        except ProcessLookupError:
            return


def check_serves_and_upgrades(service: Service, release: str) -> None:
    settle(service)
    service.upgrade(release)
    check_sole(service, release)


@pytest.mark.parametrize("first", [0, 1, 2], ids=lambda first: f"from-{first}ms")
def test_pairs(service: Service, first: int) -> None:
    """Gaps of 0 to 25 ms: the second comes while the first forks, executes, or boots."""
    service.configure(hot_probation=0)
    service.start()
    with unnoticed(service):
        for gap in range(first, 26, 3):
            storm(service, [gap / 1000])
            settle(service)
        check_serves_and_upgrades(service, "Z")
    assert "Upgrade failed" not in service.log
    assert "cannot happen" not in service.log
    # Each successor that was replaced should have ended when it was asked to.
    assert "killing it" not in service.log


@pytest.mark.parametrize(("count", "probation"), [(10, 0.05), (40, 0)])
def test_tens(service: Service, count: int, probation: float) -> None:
    dice = random.Random(count)
    service.configure(hot_probation=probation)
    service.start()
    with unnoticed(service):
        for longest in (0.0, 0.005, 0.025):
            storm(service, [dice.uniform(0, longest) for _ in range(count - 1)])
            settle(service)
        check_serves_and_upgrades(service, "Z")
    assert "Upgrade failed" not in service.log
    assert "cannot happen" not in service.log
    # Each successor that was replaced should have ended when it was asked to.
    assert "killing it" not in service.log


def test_a_storm_through_a_whole_upgrade(service: Service) -> None:
    """Signals to whoever the pid file names, at each stage, over several generations."""
    dice = random.Random(7)
    service.configure(hot_probation=0.1)
    service.start()
    with unnoticed(service):
        end = time.monotonic() + 3
        while time.monotonic() < end:
            pid = service.pid_in()
            assert pid is not None
            try:
                service.signal(signal.SIGUSR2, pid)
            except ProcessLookupError:
                continue
            pause = dice.choice((0.001, 0.02, 0.3, 0.6))
            time.sleep(pause)  # this is the load, not a wait
        check_serves_and_upgrades(service, "Z")
    assert "cannot happen" not in service.log


def test_a_storm_of_a_draining_master(service: Service) -> None:
    service.configure(hot_probation=0)
    service.start()
    with service.held() as held:
        service.release("B")
        mark = service.mark()
        service.begin_upgrade()
        service.wait_log(r"draining \d+ requests", after=mark)
        with unnoticed(service, gen="B"):
            storm(service, [0.003] * 20)
            service.wait_log("passed on to the successor", after=mark)
            service.write("go")
            assert held.answer().gen == "A"
            check_serves_and_upgrades(service, "Z")


def footprint(service: Service) -> dict[str, object]:
    """Return what could grow with each upgrade."""
    master, environment = service.master, environment_of(service.master)
    return {
        "descriptors": shape(master),
        "threads": threads(master),
        "workers' descriptors": of_workers(service),
        "environment": sorted(environment),
        "ours": {name: len(environment[name].split(",")) for name in environment if name.startswith(OURS)},
        "zombies": zombies(),
        "files": sorted(path.name for path in service.folder.iterdir() if "tmp" not in path.name),
    }


def steady_footprint(service: Service) -> dict[str, object]:
    """Return what it is as soon as it is the same twice."""
    found = footprint(service)

    def steady() -> bool:
        nonlocal found
        before, found = found, footprint(service)
        return found == before

    until(steady, "a footprint that stays")
    return found


def check_footprint(service: Service, first: dict[str, object]) -> None:
    """A leak stays; what a worker has open for a moment does not."""
    until(lambda: footprint(service) == first, f"{first}\nafter an upgrade: {footprint(service)}", timeout=5)


def of_workers(service: Service) -> list[list[str]]:
    """Return what the workers have open, without their sockets: they may have clients."""
    return [[kind for kind in shape(worker) if kind != "socket"] for worker in service.workers()]


def upgrade_in_a_row(service: Service, count: int) -> None:
    """Upgrade `count` times under load; each master must be like the first that was executed by another."""
    service.configure(hot_probation=0)
    service.start()
    first: dict[str, object] = {}
    memory: list[int] = []
    with unnoticed(service) as load:
        for number in range(count):
            release = f"R{number}"
            master = service.upgrade(release)
            load.wait_for(5, gen=release)
            settle(service)
            # The channel to the predecessor is closed as soon as it has left.
            service.wait_log(rf"\[{master}\] .* The predecessor has left")
            first = first or steady_footprint(service)
            check_footprint(service, first)
            memory.append(resident(master))
        check_sole(service, release)
    assert max(memory[2:]) <= min(memory[2:]) * (1 + RSS_TOLERANCE), memory
    assert "WARNING" not in service.log
    assert "ERROR" not in service.log


def test_twenty_upgrades_in_a_row(service: Service) -> None:
    upgrade_in_a_row(service, 20)


@pytest.mark.slow
def test_many_upgrades_in_a_row(service: Service) -> None:
    """200, or as many as the environment's UPGRADES says."""
    upgrade_in_a_row(service, int(os.environ.get("UPGRADES", "200")))


def failed_upgrades(service: Service, count: int) -> None:
    """The same master through many upgrades that fail, in two ways."""
    service.configure(hot_probation=0)
    service.start()
    workers = service.workers()
    memory: list[int] = []
    with unnoticed(service) as load:
        before = descriptors(service.master), threads(service.master)
        of_them = of_workers(service)
        for number in range(count):
            mark = service.mark()
            service.release("B broken" if number % 2 else "B hold=never")
            successor = service.begin_upgrade()
            if not number % 2:
                service.signal(signal.SIGKILL, successor)
            service.wait_log("Upgrade failed", after=mark)
            settle(service)
            assert (descriptors(service.master), threads(service.master)) == before, f"after failure {number}"
            until(lambda: of_workers(service) == of_them, f"what they had: {of_workers(service)}, {of_them}", 5)
            memory.append(resident(service.master))
        load.wait_for(10, gen="A")
        assert service.workers() == workers
        service.upgrade("C")
        check_sole(service, "C")
    assert max(memory[2:]) <= min(memory[2:]) * (1 + RSS_TOLERANCE), memory


def test_twelve_failures_of_one_master(service: Service) -> None:
    failed_upgrades(service, 12)


@pytest.mark.slow
def test_hundred_failures_of_one_master(service: Service) -> None:
    failed_upgrades(service, 100)
