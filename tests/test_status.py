"""The status as a file: what is written is what is read, by its owner alone, and a stale one is recognised."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gunicorn_hot import processes, request, status, statusfile
from gunicorn_hot.status import Master, Past, Phases, Service, Status, StatusError, Upgrade, Worker, Written

SERVICE = Service(7, "app:app", "follow", "/run/x.pid", "/srv/app", ["http://127.0.0.1:8000"])
MINE = Written(os.getpid(), processes.start_time(os.getpid()), processes.boot_id(), 1.5)
FULL = Status(
    SERVICE,
    MINE,
    "upgrading",
    4,
    Upgrade("id", 7, "booting", False, 1.0, 4, 61.0, 1, 2, "worker (pid: 8) is waiting"),
    [Master("serving", MINE.pid, MINE.start, 1.0, 4, "27.0", "3.11.7", "0.1.0", "abc", [Worker(2, "paused", 1.0, 3)])],
    [Past("old", 6, 3, 4, 0.5, 2.25, "done", Phases(1.0, 0.3, 0.2, 0.75), cut=1)],
)


def json_of(made: Status) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(made.to_json())
    return value


# --- what it says


def test_what_is_written_is_what_is_read() -> None:
    assert status.parse(FULL.to_json()) == FULL
    assert status.parse(dataclasses.replace(FULL, upgrade=None).to_json()).upgrade is None


def test_fields_of_a_later_release_are_skipped() -> None:
    value = json_of(FULL)
    value["weather"] = value["masters"][0]["weather"] = {"rain": True}
    assert status.parse(json.dumps(value)) == FULL


def test_fields_that_an_earlier_release_did_not_write_have_defaults() -> None:
    value = json_of(FULL)
    for name in ("upgrade", "masters", "history", "totals", "refused"):
        del value[name]
    found = status.parse(json.dumps(value))
    assert (found.upgrade, found.masters, found.history, found.refused) == (None, [], [], None)
    assert found.totals.upgrades == dict.fromkeys(status.OUTCOMES, 0)


def broken(*path: Any, by: Any = ...) -> str:
    value: Any = json_of(FULL)
    found = value
    for key in path[:-1]:
        found = found[key]
    if by is ...:
        del found[path[-1]]
    else:
        found[path[-1]] = by
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "version None"),
        (broken("version", by=2), "version 2, and this gunicorn_hot reads version 1"),
        (broken("written"), "'written' is missing"),
        (broken("written", "pid"), r"'written\.pid' is missing"),
        (broken("generation", by="4"), "'generation' is '4'"),
        (broken("generation", by=True), "'generation' is True"),
        (broken("upgrade", "check", by=1), r"'upgrade\.check' is 1"),
        (broken("masters", by={}), "'masters' is {}"),
        (broken("masters", 0, "workers", 0, "pid", by=None), r"'masters\[0\]\.workers\[0\]\.pid' is None"),
        (broken("history", 0, by=3), r"'history\[0\]' is 3"),
        (broken("totals", "upgrades", "done", by="x"), r"totals\.upgrades\['done'\]"),
    ],
)
def test_what_is_wrong_with_it_is_said(text: str, complaint: str) -> None:
    with pytest.raises(StatusError, match=complaint):
        status.parse(text)


def test_who_is_in_it() -> None:
    assert FULL.master("serving") is FULL.masters[0]
    assert FULL.master("draining") is None
    assert FULL.past("old") is FULL.history[0]
    assert FULL.past("id") is None


# --- stale


def test_it_is_true_while_its_writer_lives() -> None:
    assert not FULL.is_stale()


@pytest.mark.parametrize("field", ["pid", "start", "boot"])
def test_it_is_stale_when_its_writer_is_another_process(field: str) -> None:
    other = {"pid": 1, "start": MINE.start + 1, "boot": "another"}[field]
    assert dataclasses.replace(FULL, written=dataclasses.replace(MINE, **{field: other})).is_stale()


def test_it_is_stale_when_its_writer_has_ended_even_as_a_zombie() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        start = processes.start_time(child.pid)
        made = dataclasses.replace(FULL, written=dataclasses.replace(MINE, pid=child.pid, start=start))
        assert start
        assert not made.is_stale()
        assert child.stdin is not None
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert made.is_stale()
    assert made.is_stale()


def test_without_a_start_time_the_pid_has_to_do() -> None:
    assert not dataclasses.replace(FULL, written=dataclasses.replace(MINE, start=0)).is_stale()
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert dataclasses.replace(FULL, written=dataclasses.replace(MINE, pid=child.pid, start=0)).is_stale()


# --- the folder


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let $XDG_RUNTIME_DIR be a folder of the test, and the other place one that it does not have."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folders = statusfile.folders
    monkeypatch.setattr(statusfile, "folders", lambda: folders()[:1])
    return tmp_path / "gunicorn_hot"


def test_the_default_is_in_the_users_runtime_folder(runtime: Path) -> None:
    assert statusfile.default(7) == f"{runtime}/7.json"
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert statusfile.default(8) == f"{runtime}/8.json"


@pytest.mark.parametrize("value", [None, "", "relative", "/nowhere", "other"])
def test_without_such_a_folder_it_is_in_one_of_the_users_own(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    uid = os.geteuid() + (value == "other")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    if value == "other":
        value = str(tmp_path)
    if value is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    assert statusfile.folders() == [f"/tmp/gunicorn_hot-{uid}"]


def test_a_folder_that_others_can_enter_is_refused(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o710)
    with pytest.raises(OSError, match=r"open to others \(mode 710\)"):
        statusfile.default(7)
    assert statusfile.find() == []


def test_a_folder_of_another_user_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statusfile.default(7)
    uid = os.geteuid()
    monkeypatch.setattr(statusfile, "folders", lambda: [str(runtime)])
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(OSError, match=f"belongs to the user {uid}"):
        statusfile.default(7)


def test_a_link_is_refused(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is no directory"):
        statusfile.default(7)


def test_all_services_of_a_user_are_found(runtime: Path) -> None:
    assert statusfile.find() == []
    for pid in (8, 7):
        statusfile.replace(statusfile.default(pid), "{}")
    (runtime / "7.json.request").write_text("")
    assert statusfile.find() == [f"{runtime}/7.json", f"{runtime}/8.json"]


def test_what_killed_services_have_left_is_removed_after_a_day(runtime: Path) -> None:
    gone = dataclasses.replace(FULL, written=dataclasses.replace(MINE, start=MINE.start + 1), masters=[])
    old = {"1.json": FULL.to_json(), "2.json": gone.to_json(), "3.json": '{"version": 2}', "2.json.request": "{}",
           ".2.json.x": "", "5.json": dataclasses.replace(gone, masters=FULL.masters).to_json()}  # fmt: skip
    statusfile.default(7)
    for name, text in old.items():
        (runtime / name).write_text(text)
        os.utime(runtime / name, (time.time() - 90_000,) * 2)
    (runtime / "4.json").write_text(gone.to_json())
    statusfile.default(7)
    # It lives; it is of another release; somebody of it lives; it looks as if it had ended, but not for long.
    assert sorted(os.listdir(runtime)) == ["1.json", "3.json", "4.json", "5.json"]


# --- the file


def test_it_is_replaced_and_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "status"
    statusfile.replace(str(path), FULL.to_json())
    first = path.stat().st_ino
    statusfile.replace(str(path), FULL.to_json())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_ino != first
    assert os.listdir(tmp_path) == ["status"]
    assert statusfile.read(path) == FULL


def test_what_cannot_be_replaced_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    with pytest.raises(OSError, match="directory"):
        statusfile.replace(str(tmp_path / "status"), "x")
    assert os.listdir(tmp_path) == ["status"]


def test_a_file_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(FULL.to_json())
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "bad").write_text("{")
    os.mkfifo(tmp_path / "fifo")
    for name, complaint in [
        ("none", "No such file"), ("link", "symbolic"), ("bad", "not JSON"), ("fifo", "no regular file"),
    ]:  # fmt: skip
        with pytest.raises(StatusError, match=f"{name}: .*{complaint}"):
            statusfile.read(tmp_path / name)


def test_what_another_user_has_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status"
    statusfile.replace(str(path), FULL.to_json())
    if os.geteuid() == 0:
        os.chown(path, 4711, -1)
        assert statusfile.read(path) == FULL  # root may look at everything
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(StatusError, match="belongs to the user"):
        statusfile.read(path)


# --- requests


@pytest.fixture
def asked(tmp_path: Path) -> str:
    """Return the path of the status of a service whose master this process is."""
    path = str(tmp_path / "status")
    statusfile.replace(path, FULL.to_json())
    return path


def test_a_request_is_taken_once(asked: str) -> None:
    # This process, as most, ignores the signal.
    id = request.send(asked, "upgrade", "user@pts/3")
    assert os.stat(request.path(asked)).st_mode & 0o777 == 0o600
    assert request.take(asked) == request.Request(id, "upgrade", "user@pts/3")
    assert request.take(asked) is None


def test_a_master_that_is_gone_is_asked_nothing(asked: str) -> None:
    gone = dataclasses.replace(FULL, masters=[dataclasses.replace(FULL.masters[0], start=MINE.start + 1)])
    for made in (gone, dataclasses.replace(FULL, masters=[])):
        statusfile.replace(asked, made.to_json())
        with pytest.raises(ProcessLookupError, match="is gone"):
            request.send(asked, "upgrade")
    assert not os.path.exists(request.path(asked))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not understood"),
        ("[]", "not understood"),
        ('{"id": 1}', "1 is no string"),
        ('{"command": "abort"}', "has no id"),
        ('{"id": "\\n", "command": "abort"}', "has no id"),
    ],
)
def test_a_request_that_is_none_is_removed(text: str, complaint: str, asked: str) -> None:
    Path(request.path(asked)).write_text(text)
    with pytest.raises(request.RequestError, match=complaint):
        request.take(asked)
    assert request.take(asked) is None


def test_a_link_to_a_request_is_not_followed(asked: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text('{"id": "1", "command": "abort"}')
    os.symlink("other", request.path(asked))
    with pytest.raises(request.RequestError, match="symbolic"):
        request.take(asked)
    assert (tmp_path / "other").exists()
    assert not os.path.lexists(request.path(asked))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
def test_another_users_request_is_refused(asked: str) -> None:
    request.send(asked, "abort")
    os.chown(request.path(asked), 4711, -1)
    with pytest.raises(request.RequestError, match="belongs to the user 4711"):
        request.take(asked)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask another user's service")
def test_roots_request_becomes_the_services_users(asked: str) -> None:
    os.chown(asked, 4711, -1)
    request.send(asked, "abort")
    assert os.stat(request.path(asked)).st_uid == 4711


def test_what_is_said_in_a_log_line_is_one_line(asked: str) -> None:
    Path(request.path(asked)).write_text(json.dumps({"id": "a\nb", "command": "abort", "by": "x" * 1000}))
    found = request.take(asked)
    assert found is not None
    assert (found.id, len(found.by)) == ("ab", 200)
