"""What a new master writes before it can speak: to be found by the old one, or to come where it belongs."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from gunicorn_hot import early_output
from gunicorn_hot.early_output import VARIABLE, Capture


def in_child(stderr: int, what: Callable[[], None]) -> int:
    """Run `what` in a forked child whose standard error is `stderr`; return how it exited."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(stderr, 2)
            what()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_is_written_before_the_end_is_found() -> None:
    capture = Capture()
    out, real = os.pipe()

    def write() -> None:
        capture.redirect()
        os.write(2, "\n  SyntaxError: größe\n".encode())

    assert in_child(real, write) == 0
    os.close(real)
    assert (capture.text(), os.read(out, 100)) == ("SyntaxError: größe", b"")
    os.close(out)
    capture.close()


def test_only_the_end_of_much_is_kept() -> None:
    capture = Capture()
    os.write(capture._file.fileno(), b"x" * 20_000 + b" end")
    text = capture.text()
    assert (len(text), text[-5:]) == (8192, "x end")
    capture.close()


def test_nothing_was_written() -> None:
    capture = Capture()
    assert capture.text() == ""
    capture.close()


def test_who_is_up_gets_its_standard_error_back_with_all_that_was_written() -> None:
    capture = Capture()
    out, real = os.pipe()
    much = b"y" * 20_000

    def write() -> None:
        env = {VARIABLE: capture.redirect(), "HOME": "/"}
        copy = int(env[VARIABLE].split(":")[0])
        os.write(2, much)
        early_output.release(env)
        os.write(2, b" late")
        assert env == {"HOME": "/"}
        assert not os.path.exists(f"/proc/self/fd/{copy}")

    assert in_child(real, write) == 0
    os.close(real)
    data = b""
    while piece := os.read(out, 65536):
        data += piece
    assert data == much + b" late"
    os.close(out)
    capture.close()


def test_a_standard_error_that_was_changed_since_is_left_alone() -> None:
    capture = Capture()
    out, real = os.pipe()
    null = os.open(os.devnull, os.O_WRONLY)

    def write() -> None:
        env = {VARIABLE: capture.redirect()}
        os.write(2, b"early")
        os.dup2(null, 2)
        early_output.release(env)
        assert os.fstat(2).st_ino == os.fstat(null).st_ino

    assert in_child(real, write) == 0
    os.close(real)
    assert os.read(out, 100) == b""
    for fd in (out, null):
        os.close(fd)
    capture.close()


def test_a_standard_error_that_nobody_reads_any_more_stops_no_upgrade() -> None:
    capture = Capture()
    out, real = os.pipe()
    os.close(out)

    def write() -> None:
        env = {VARIABLE: capture.redirect()}
        os.write(2, b"[INFO] Starting gunicorn")
        early_output.release(env)
        assert os.fstat(2).st_ino == os.fstat(real).st_ino

    code = in_child(real, write)
    os.close(real)
    capture.close()
    assert code == 0


@pytest.mark.parametrize("env", [{}, {"HOME": "/"}], ids=str)
def test_a_first_start_has_nothing_to_release(env: dict[str, str]) -> None:
    before = dict(env)
    early_output.release(env)
    assert env == before
