"""How the command line waits: for a file's replacement or end, and for the end of processes; without inotify, too."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server import DEADLINE, until

from gunicorn_hot.cli import watching
from gunicorn_hot.cli.watching import Watch


@pytest.fixture(params=["inotify", "looking"])
def watch(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    if request.param == "looking":
        def none(folder: Path) -> int:
            raise OSError("no inotify")

        monkeypatch.setattr(watching, "_inotify", none)
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    (tmp_path / "status.json").write_text("0")
    with Watch(tmp_path / "status.json") as watch:
        yield watch


def replace(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.rename(path)


def wait_for(watch: Watch, fact: Callable[[], bool]) -> None:
    """Wait as the commands do: look, and wait, until it is so."""
    end = time.monotonic() + DEADLINE
    while not fact():
        left = end - time.monotonic()
        assert left > 0
        watch.wait(left)


def test_a_change_between_the_look_and_the_wait_is_not_missed(watch: Watch, tmp_path: Path) -> None:
    for text in "123":
        replace(tmp_path / "status.json", text)
        began = time.monotonic()
        watch.wait(DEADLINE)
        assert time.monotonic() - began < DEADLINE / 2


def test_a_change_ends_the_wait(watch: Watch, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    writer = threading.Timer(0.05, replace, (path, "1"))
    writer.start()
    wait_for(watch, lambda: path.read_text() == "1")
    writer.join()


def test_the_end_of_the_file_ends_the_wait(watch: Watch, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    remover = threading.Timer(0.05, path.unlink)
    remover.start()
    wait_for(watch, lambda: not path.exists())
    remover.join()


def test_the_end_of_a_process_ends_the_wait(watch: Watch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as popen:
        assert popen.stdin is not None
        watch.watch([popen.pid])
        ender = threading.Timer(0.05, popen.stdin.close)
        ender.start()
        wait_for(watch, lambda: popen.poll() is not None)
        ender.join()


def test_a_process_that_has_ended_already_is_no_mistake(watch: Watch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as popen:
        pass
    watch.watch([popen.pid])
    watch.wait(0.01)


def test_others_in_the_folder_do_not_end_the_wait(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("0")
    with Watch(tmp_path / "status.json") as watch:
        replace(tmp_path / "neighbour.json", "1")
        (tmp_path / "status.json.request").write_text("1")
        began = time.monotonic()
        watch.wait(0.3)
        assert time.monotonic() - began >= 0.3


def test_one_end_ends_one_wait(tmp_path: Path) -> None:
    with Watch(tmp_path / "status.json") as watch, subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as popen:
        watch.watch([popen.pid])
        popen.communicate()
        watch.wait(DEADLINE)
        began = time.monotonic()
        watch.wait(0.3)
        assert time.monotonic() - began >= 0.3


def test_what_is_not_watched_any_more_does_not_end_the_wait(tmp_path: Path) -> None:
    with Watch(tmp_path / "status.json") as watch, subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    ) as popen:
        watch.watch([popen.pid])
        watch.watch([])
        popen.communicate()
        began = time.monotonic()
        watch.wait(0.3)
        assert time.monotonic() - began >= 0.3


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Watch(tmp_path / "status.json") as watch:
        watch.watch([os.getpid(), os.getppid()])
    until(lambda: set(os.listdir("/proc/self/fd")) == before, "the end of its descriptors")
