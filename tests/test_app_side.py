"""What an application may ask and say: whether its worker leaves, and when it is ready."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from textwrap import dedent

import pytest
from server import APPS, Service, until, wait_gone

WORKERS = ["sync", "gthread", "gevent"]

#: Lines before an application that has the subject's paths, too.
HEAD = """\
import asyncio, os, signal, threading, time
import gunicorn_hot
from subject import FOLDER, RELEASE, say_held
from subject import app as subject


def say(name, word=""):
    with open(FOLDER / name, "a") as file:
        file.write(f"{RELEASE} {os.getpid()} {word}".strip() + "\\n")


def until_there(name):
    end = time.monotonic() + 60
    while not (FOLDER / name).exists() and time.monotonic() < end:
        time.sleep(0.01)

"""

#: Answers with as many pieces as there are until its worker drains.
POLITE = """\
def polite():
    say("polite")
    for _ in range(6000):
        if gunicorn_hot.draining():
            yield b"bye"
            return
        yield b"."
        time.sleep(0.01)


def app(environ, start_response):
    if environ["PATH_INFO"] != "/polite":
        return subject(environ, start_response)
    start_response("200 OK", [("X-Gen", RELEASE), ("X-Pid", str(os.getpid()))])
    return polite()
"""

AS_IT_IS = "app = subject\n"


def application(service: Service, *parts: str) -> None:
    shutil.copy(APPS / "subject.py", service.folder / "subject.py")
    service.write("app.py", HEAD + "".join(dedent(part) for part in parts))


def place(service: Service, text: str) -> str:
    """Return the line of the application that `text` names as a file and a line."""
    found = re.search(r"hold_ready\(\) at (\S+):(\d+)", text)
    assert found, text
    assert found[1] == str(service.folder / "app.py")
    return service.read("app.py").splitlines()[int(found[2]) - 1]


def skip_without(worker_class: str) -> None:
    if worker_class == "gevent":
        pytest.importorskip("gevent")


# --- Where nobody drains ----------------------------------------------------------------------------------------


def test_a_script_that_imports_it_is_not_disturbed(service: Service) -> None:
    done = service.run(sys.executable, "-W", "error", "-c", dedent("""
        import sys
        import gunicorn_hot
        assert "asyncio" not in sys.modules, "gevent must be able to patch it"
        assert gunicorn_hot.draining() is False
        gunicorn_hot.on_drain(print)
        with gunicorn_hot.hold_ready() as hold:
            assert "hold_ready() at <string>:7" in repr(hold)
        hold.ready()
        gunicorn_hot.hold_ready().fail("whatever")

        import asyncio
        async def main():
            waiting = asyncio.create_task(gunicorn_hot.wait_draining())
            await asyncio.sleep(0)
            assert not waiting.done()
        asyncio.run(main())
        try:
            gunicorn_hot.on_drain("name")
        except TypeError as exc:
            print(exc)
    """))
    assert done.stdout == "on_drain takes a function without arguments, not 'name'\n"
    assert done.returncode == 0


def test_a_stock_gunicorn_is_not_disturbed(service: Service) -> None:
    application(service, "gunicorn_hot.hold_ready()\ngunicorn_hot.on_drain(print)\n", POLITE)
    service.configure(hook=None)
    service.start()
    assert service.ask().status == 200


def test_the_decorator_is_no_server_hook(service: Service) -> None:
    service.configure("from gunicorn_hot import on_drain")
    done = service.run(*service.command("--check-config"))
    assert done.returncode != 0
    assert "gunicorn_hot.on_drain is for the application" in done.stdout


# --- Leaving ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("worker_class", WORKERS)
def test_a_stream_ends_itself_politely(service: Service, worker_class: str) -> None:
    skip_without(worker_class)
    application(service, POLITE)
    service.configure(worker_class=worker_class, hot_drain_timeout=50, graceful_timeout=50, keepalive=1)
    service.start()
    with service.connect() as connection:
        connection.send_request("/polite")
        service.wait_file("polite", lines=1)
        service.upgrade("B")
        answer = connection.answer()
    assert (answer.gen, answer.body[-3:]) == ("A", b"bye")
    assert "0 requests cut" in service.log
    with service.connect() as connection:
        connection.send_request("/polite")
        service.wait_file("polite", lines=2)
        service.signal(signal.SIGTERM)
        assert connection.answer().body.endswith(b"bye")


CALLBACKS = """
@gunicorn_hot.on_drain
def first():
    say("called", threading.current_thread() is threading.main_thread())
    raise RuntimeError("on purpose")


@gunicorn_hot.on_drain
async def second():
    await asyncio.sleep(0)
    say("called", "async")

"""


@pytest.mark.parametrize("worker_class", WORKERS)
def test_callbacks_are_called_while_a_request_is_under_way(service: Service, worker_class: str) -> None:
    skip_without(worker_class)
    application(service, CALLBACKS, AS_IT_IS)
    service.configure(worker_class=worker_class, workers=1, threads=2 if worker_class == "gthread" else None)
    service.start()
    with service.held() as held:
        service.release("B")
        old = service.master
        service.begin_upgrade()
        # The only worker is busy: it has not come to read what its master says.
        lines = service.wait_file("called", lines=2).splitlines()
        service.write("go")
        assert held.answer().gen == "A"
    assert [line.split()[2] for line in lines] == ["False", "async"]
    assert "Exception in on_drain callback" in service.log
    assert "RuntimeError: on purpose" in service.log
    wait_gone(old)


SLOW_CALLBACK = """
@gunicorn_hot.on_drain
def slow():
    say("began")
    until_there("go")
    say("ended")

"""


@pytest.mark.parametrize("worker_class", WORKERS)
def test_a_worker_does_not_leave_before_its_callbacks_have_returned(service: Service, worker_class: str) -> None:
    skip_without(worker_class)
    application(service, SLOW_CALLBACK, AS_IT_IS)
    service.configure(worker_class=worker_class, hot_drain_timeout=50)
    service.start()
    old, workers = service.master, service.workers()
    service.begin_upgrade()
    service.wait_file("began", lines=2)
    assert set(workers) <= set(service.workers(old))
    service.write("go")
    wait_gone(old)
    assert len(service.read("ended").splitlines()) == 2


WATCH = """
def watch():
    before = False
    while True:
        if gunicorn_hot.draining() != before:
            before = not before
            say("changes", before)
        time.sleep(0.01)


def wait():
    async def main():
        await gunicorn_hot.wait_draining()
        say("waited")
        await gunicorn_hot.wait_draining()
        say("waited", "again")
    asyncio.run(main())


gunicorn_hot.on_drain(lambda: say("called"))
for target in (watch, wait):
    threading.Thread(target=target, daemon=True).start()

"""


def test_a_worker_that_is_taken_back_does_not_drain(service: Service) -> None:
    application(service, WATCH, AS_IT_IS)
    service.configure(workers=1, hot_drain_timeout=50)
    service.start()
    (worker,) = service.workers()
    with service.held() as held:
        service.release("B")
        new = service.begin_upgrade()
        service.wait_log("committed to successor")
        assert service.wait_file("waited", lines=2).splitlines() == [f"A {worker}", f"A {worker} again"]
        assert service.wait_file("changes", lines=1) == f"A {worker} True\n"
        service.signal(signal.SIGKILL, new)
        service.wait_log("Upgrade failed")
        # The new worker, an orphan now, drains too.
        until(lambda: [line for line in service.read("changes").splitlines() if line.startswith("A")]
              == [f"A {worker} True", f"A {worker} False"], "that the old worker does not drain any more")
        service.write("go")
        held.answer()
    until(lambda: service.ask().gen == "A", "an answer of the old release")
    service.upgrade("C")
    # Each drain is announced once.
    assert [line for line in service.read("called").splitlines() if line.startswith("A")] == [f"A {worker}"] * 2


HOOK = """
def on_drain(worker):
    with open("hook", "a") as file:
        file.write(f"{worker.pid}\\n")
"""


def test_whoever_is_stopped_drains(service: Service) -> None:
    application(service, WATCH, AS_IT_IS)
    service.configure(HOOK, workers=1)
    service.start()
    with service.held() as held:
        service.signal(signal.SIGTERM)
        service.wait_file("called", lines=1)
        service.wait_file("waited", lines=2)
        service.wait_file("hook", lines=1)
        service.write("go")
        assert held.answer().status == 200


WAITING_HOOK = """
import time
def on_drain(worker):
    time.sleep(0.01)
    with open("hook", "a") as file:
        file.write(f"{worker.pid}\\n")
"""


@pytest.mark.parametrize("worker_class", WORKERS)
def test_the_hook_may_wait_in_an_upgrade(service: Service, worker_class: str) -> None:
    skip_without(worker_class)
    service.configure(WAITING_HOOK, worker_class=worker_class, workers=1, hot_drain_timeout=50)
    service.start()
    (worker,) = service.workers()
    with service.held() as held:
        service.begin_drain()
        if worker_class != "sync":
            assert service.wait_file("hook", lines=1) == f"{worker}\n"
        service.write("go")
        assert held.answer().status == 200
    wait_gone(service.master)
    assert service.read("hook") == f"{worker}\n"
    assert "Exception in on_drain hook" not in service.log


@pytest.mark.parametrize("worker_class", WORKERS)
def test_whoever_has_served_max_requests_drains(service: Service, worker_class: str) -> None:
    skip_without(worker_class)
    application(service, WATCH, AS_IT_IS)
    # One more than the harness asks for, to see that it serves.
    service.configure(HOOK, worker_class=worker_class, workers=1, max_requests=2)
    service.start()
    (worker,) = service.workers()
    with service.held() as held:
        for name in ("called", "changes", "waited"):
            assert service.wait_file(name, lines=1).split()[1] == str(worker)
        if worker_class != "sync":
            assert service.wait_file("hook", lines=1) == f"{worker}\n"
        service.write("go")
        assert held.answer().status == 200
    wait_gone(worker)
    assert len(service.read("called").splitlines()) == 1
    assert service.read("hook") == f"{worker}\n"


# --- Becoming ready ---------------------------------------------------------------------------------------------


HOLDS = """
holds = gunicorn_hot.hold_ready(), gunicorn_hot.hold_ready()


def warm(hold, name):
    with hold:
        until_there(name)


if RELEASE != "A":
    for number, hold in enumerate(holds):
        say_held(f"hold{number}")
        threading.Thread(target=warm, args=(hold, f"hold{number}")).start()
else:
    for hold in holds:
        hold.ready()
        hold.ready()

"""


@pytest.mark.parametrize("worker_class", WORKERS)
def test_a_worker_is_ready_when_its_holds_are_released(service: Service, worker_class: str) -> None:
    skip_without(worker_class)
    application(service, HOLDS, AS_IT_IS)
    # Far away: the wait of a worker must not end by the next heartbeat.
    service.configure(worker_class=worker_class, workers=2, timeout=120)
    service.start()
    old = service.master
    service.release("B")
    service.begin_upgrade()
    for number in (0, 1):
        service.wait_log(r"Waiting: worker \(pid: \d+\) is held by hold_ready\(\) at \S+app.py:\d+")
        service.wait_file(f"hold{number}.held", lines=2)
        assert "is ready after" not in service.log
        service.write(f"hold{number}")
    service.wait_log("Upgrade: done")
    wait_gone(old)
    assert service.ask().gen == "B"


def test_a_hold_that_nobody_releases_is_named(service: Service) -> None:
    application(service, HOLDS, AS_IT_IS)
    # As short as a busy machine allows: the workers must have loaded the application by then.
    service.configure(hot_ready_timeout=6)
    service.start()
    service.release("B")
    service.begin_upgrade()
    service.wait_file("hold0.held", lines=1)
    service.write("hold0")
    reason = service.wait_log("Upgrade failed: (.*)")[0][1]
    assert re.fullmatch(
        r"not ready in 6s \(hot_ready_timeout\): worker \(pid: \d+\) is held by hold_ready\(\) at \S+app.py:\d+; "
        r"0 of 2 workers ready",
        reason,
    ), reason
    assert place(service, reason).startswith("holds = gunicorn_hot.hold_ready()")
    service.write("hold1")
    assert service.ask().gen == "A"
    service.upgrade("A")


GIVES_UP = """
def warm(hold):
    until_there("give-up")
    with hold:
        raise LookupError("no model here")


if RELEASE == "B":
    threading.Thread(target=warm, args=(gunicorn_hot.hold_ready(),)).start()
if RELEASE == "C":
    gunicorn_hot.hold_ready().fail("not today")

"""


@pytest.mark.parametrize("worker_class", WORKERS)
def test_a_hold_can_fail(service: Service, worker_class: str) -> None:
    skip_without(worker_class)
    application(service, GIVES_UP, AS_IT_IS)
    service.configure(worker_class=worker_class, workers=1, timeout=120)
    service.start()
    service.release("B")
    service.begin_upgrade()
    service.wait_log("Waiting: worker")
    service.write("give-up")
    reason = service.wait_log("Upgrade failed: (.*)")[0][1]
    assert "failed to boot: LookupError: no model here (said to hold_ready() at " in reason
    assert service.ask().gen == "A"
    # At a first start it is what an application is that cannot be loaded.
    service.release("C")
    done = service.run(*service.command("--bind", "127.0.0.1:0", "--pid", "other", "--log-file", "other-log"))
    assert done.returncode == 3
    assert "NotReady: not today (said to hold_ready() at " in service.read("other-log")


def test_a_hold_that_nobody_releases_at_a_first_start(service: Service) -> None:
    application(service, "gunicorn_hot.hold_ready()\n", AS_IT_IS)
    service.configure(workers=1, hot_ready_timeout=2)
    service.start(serves=False)
    (found, *_) = service.wait_log(r"Worker not ready in 2s \(hot_ready_timeout\) \(pid:\d+\): held by .*")
    assert "hold_ready()" in place(service, found[0])


MASTER = """
if RELEASE == "B":
    hold = gunicorn_hot.hold_ready()
    def warm():
        until_there("warm")
        global warmed
        warmed = os.getpid()
        hold.ready()
    threading.Thread(target=warm).start()
if RELEASE == "C":
    gunicorn_hot.hold_ready().fail("not today")
if RELEASE == "D":
    gunicorn_hot.hold_ready()


def app(environ, start_response):
    start_response("200 OK", [("X-Gen", RELEASE), ("X-Pid", str(globals().get("warmed", os.getpid())))])
    return [b""]
"""


def test_a_hold_in_the_master_delays_its_workers(service: Service) -> None:
    application(service, MASTER)
    service.configure(preload_app=True, hot_ready_timeout=20)
    service.start()
    old = service.master
    service.release("B")
    new = service.begin_upgrade()
    service.wait_log(r"Waiting: the master is held by hold_ready\(\) at \S+app.py:\d+")
    assert not service.workers(new)
    service.write("warm")
    wait_gone(old)
    # What was warmed up is in the workers.
    answer = service.ask()
    assert (answer.gen, answer.pid) == ("B", new)


@pytest.mark.parametrize(("release", "reason"), [
    ("C", r"The application cannot be ready: not today \(said to hold_ready\(\) at \S+app.py:\d+\)"),
    ("D", r"not ready in 6s \(hot_ready_timeout\): the master is held by hold_ready\(\) at \S+app.py:\d+"),
])
def test_a_hold_in_the_master_that_is_not_released(service: Service, release: str, reason: str) -> None:
    application(service, MASTER)
    service.configure(preload_app=True, hot_ready_timeout=6)
    service.start()
    service.release(release)
    service.begin_upgrade()
    found = service.wait_log("Upgrade failed: (.*)")[0][1]
    assert re.search(reason, found), found
    assert "hold_ready()" in place(service, found)
    assert service.ask().gen == "A"
    done = service.run(*service.command("--bind", "127.0.0.1:0", "--pid", "other", "--log-file", "other-log"))
    assert done.returncode == 3, done
    assert "hold_ready() at" in service.read("other-log")
