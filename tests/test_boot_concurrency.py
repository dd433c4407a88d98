"""How fast a new generation loads beside one that serves: the number of workers at a time, and their priority."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from server import Service, until, wait_gone
from test_app_side import AS_IT_IS, application

from gunicorn_hot import pace, priority, settings

_PR_CAPBSET_DROP, _CAP_SYS_NICE = 24, 23

# --- Pure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "loading", "demand", "room"), [
    (1, 0, 0.0, 1),     # the first one
    (3, 0, 0.0, 3),
    (1, 1, 1.0, 0),     # it works
    (1, 1, 0.84, 0),    # it works, and its account is behind
    (1, 1, 0.5, 1),     # it leaves half of a processor
    (1, 1, 0.0, 10**8), # it waits, and so will they all
    (1, 2, 1.0, 0),
    (3, 2, 2.0, 1),     # one is still to come
    (3, 3, 2.9, 0),
    (3, 3, 1.5, 3),
    (1, 3, 3.0, 0),     # waited when they were started, and work now
    (2, 1, 40.0, 1),    # a numeric library's threads
])
def test_room(limit: int, loading: int, demand: float, room: int) -> None:
    found = pace.room(limit, loading, demand)
    assert found == room or found >= room >= 10**8


def test_demand_is_what_was_wanted_since_the_look_before(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = {1: (5.0, False), 2: (0.0, True)}
    monkeypatch.setattr(pace, "account", accounts.__getitem__)
    measure = pace.Pace()
    look = pace.LOOK
    assert measure.demand([1], 10.0) == 1.0, "a new one is taken to work"
    accounts[1] = (5.01, False)
    assert measure.demand([1], 10.0 + look / 2) == 1.0, "too early to tell"
    accounts[1] = (5.0 + look / 4, False)
    assert measure.demand([1], 10.0 + look) == pytest.approx(0.25)
    assert measure.demand([1, 2], 10.0 + 2 * look) == pytest.approx(1.0), "the first has waited, the second is new"
    assert measure.demand([2], 10.0 + 4 * look) == 1.0, "it stands in line"
    accounts[2] = (0.0, False)
    assert measure.demand([2], 10.0 + 5 * look) == 0.0
    assert measure.demand([], 20.0) == 0.0


def test_a_working_process_wants_a_processor_and_a_waiting_one_does_not() -> None:
    before, runs = pace.account(os.getpid())
    assert runs
    until(lambda: pace.account(os.getpid())[0] - before > 0.2, "0.2 s of work")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        until(lambda: not pace.account(child)[1], "that the child waits")
        assert pace.account(child)[0] < 0.2
    finally:
        os.close(write)
        os.waitpid(child, 0)
        os.close(read)
    assert pace.account(child) == (0.0, True)


@pytest.mark.parametrize(("files", "cores"), [
    ({}, 8),
    ({"a/b/cpu.max": "max 100000"}, 8),
    ({"a/b/cpu.max": "250000 100000"}, 2),
    ({"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1),
    ({"a/b/cpu.max": "50000 100000"}, 1),
    ({"a/b/cpu.max": "nonsense"}, 8),
])
def test_usable_cores(files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(pace, "_CGROUPS", tmp_path)
    monkeypatch.setattr(pace, "_own_cgroup", lambda: "a/b")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    assert pace.usable_cores() == cores
    assert pace.default_limit() == max(1, cores - 1)


@pytest.mark.parametrize("value", [-1, "x", True, 1.5, [1]])
def test_a_wrong_value_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="not a number of workers"):
        settings.HotBootConcurrency().set(value)


# --- Real workers -----------------------------------------------------------------------------------------------

#: Each import computes for 0.4 s, and says when.
COMPUTES = """
began = time.monotonic()
if RELEASE != "A":
    enough = time.process_time() + 0.4
    while time.process_time() < enough:
        pass
    say("spans", f"{began} {time.monotonic()}")
"""

#: Each import computes until all have come so far.
MEET = """
say("met")
end = time.monotonic() + 60
while len(open(FOLDER / "met").read().split("\\n")) <= 3 and time.monotonic() < end:
    pass
"""


def spans(text: str) -> list[tuple[float, float]]:
    return sorted((float(line.split()[2]), float(line.split()[3])) for line in text.splitlines())


def test_workers_that_compute_load_one_after_the_other(service: Service) -> None:
    application(service, COMPUTES, AS_IT_IS)
    service.configure(workers=3, hot_boot_concurrency=1)
    service.start()
    service.upgrade("B")
    found = spans(service.read("spans"))
    assert len(found) == 3
    for (_, end), (begin, _) in itertools.pairwise(found):
        assert end <= begin
    assert service.ask().gen == "B"


def test_workers_that_wait_load_together(service: Service) -> None:
    service.configure(workers=3, hot_boot_concurrency=1)
    service.start()
    service.release("B hold=go")
    old = service.master
    service.begin_upgrade()
    service.wait_file("go.held", lines=3)
    service.write("go")
    wait_gone(old)
    assert service.ask().gen == "B"


def test_at_a_first_start_and_without_a_limit_all_load_at_once(service: Service) -> None:
    application(service, MEET, AS_IT_IS)
    service.configure(workers=3, hot_boot_concurrency=1)
    service.start()
    service.configure(workers=3, hot_boot_concurrency=0)
    service.write("met")
    service.upgrade("B")
    assert service.ask().gen == "B"


#: Notes its priority while it loads, and starts a thread and a process that live on.
PRIORITY = """
import json, subprocess
say("nice", os.getpriority(os.PRIO_PROCESS, 0))
threading.Thread(target=until_there, args=("never",), daemon=True).start()
child = subprocess.Popen(["sleep", "60"])


def app(environ, start_response):
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    found = {who: os.getpriority(os.PRIO_PROCESS, who) for who in [*threads, child.pid]}
    start_response("200 OK", [("X-Gen", RELEASE), ("X-Pid", str(os.getpid()))])
    return [json.dumps(found).encode()]
"""


def forbid_to_raise_priority() -> None:
    assert ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_NICE) == 0 or os.geteuid()


def upgraded_priorities(service: Service, worker_class: str, **options: Any) -> list[int]:
    """Return the nice values that the new workers had while they loaded; afterwards all must be back at 0."""
    if worker_class == "gevent":
        pytest.importorskip("gevent")
    application(service, PRIORITY)
    service.configure(worker_class=worker_class, threads=2 if worker_class == "gthread" else None)
    service.start(**options)
    first = service.wait_file("nice", lines=2).splitlines()
    assert [int(line.split()[2]) for line in first] == [0, 0], "at a first start"
    service.write("nice")
    service.upgrade("B")
    answer = service.ask()
    assert answer.gen == "B"
    found = json.loads(answer.body)
    assert len(found) >= 2
    assert all(nice == 0 for nice in found.values()), found
    return [int(line.split()[2]) for line in service.read("nice").splitlines()]


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent"])
def test_workers_step_back_while_they_load(service: Service, worker_class: str) -> None:
    if not priority._is_way_back_open():
        pytest.skip("no right to raise a priority again (CAP_SYS_NICE, RLIMIT_NICE)")
    if os.getpriority(os.PRIO_PROCESS, 0) != 0:
        pytest.skip("the tests run at another priority")
    assert upgraded_priorities(service, worker_class) == [priority.STEP] * 2


@pytest.mark.parametrize("worker_class", ["sync", "gevent"])
def test_who_could_not_come_forward_again_does_not_step_back(service: Service, worker_class: str) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0) != 0:
        pytest.skip("the tests run at another priority")
    assert upgraded_priorities(service, worker_class, preexec_fn=forbid_to_raise_priority) == [0, 0]
