"""How a child has ended, in words; and who gets no signal any more."""

from __future__ import annotations

import os
import signal
import time

import pytest

from gunicorn_hot.channel import Channel
from gunicorn_hot.early_output import Capture
from gunicorn_hot.processes import EXITED_NORMALLY, ended, in_words
from gunicorn_hot.successor import Successor


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, EXITED_NORMALLY),
        (3, "exited with code 3"),
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-signal.SIGTERM, "was killed by SIGTERM"),
        (-(signal.SIGRTMIN + 6), f"was killed by signal {signal.SIGRTMIN + 6}"),
    ],
)
def test_words(code: int, words: str) -> None:
    assert in_words(code) == words


def child(code: int | None) -> int:
    pid = os.fork()
    if pid == 0:
        if code is None:
            time.sleep(60)
        os._exit(code or 0)
    return pid


def test_a_child_that_runs_has_not_ended() -> None:
    pid = child(None)
    assert ended(pid) is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("code", [0, 3, None])
def test_a_child_that_has_ended_is_left_to_be_reaped(code: int | None) -> None:
    pid = child(code)
    if code is None:
        os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    words = "was killed by SIGKILL" if code is None else f"exited with code {code}"
    assert (ended(pid), ended(pid)) == (words, words)
    assert in_words(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) == words
    assert ended(pid) is None


def test_a_successor_that_has_been_reaped_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its last words are read after the reaping, and may be answered by an EndSuccessor.
    ours, theirs = Channel.pair()
    successor = Successor(child(0), ours, Capture())
    try:
        os.waitid(os.P_PID, successor.pid, os.WEXITED | os.WNOWAIT)
        assert successor.reap() == EXITED_NORMALLY
        sent: list[tuple[int, int]] = []
        monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
        successor.signal(signal.SIGTERM)
        assert sent == []
    finally:
        successor.close()
        theirs.close()
