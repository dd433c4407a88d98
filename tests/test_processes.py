"""How a child has ended, in words; and who gets no signal any more."""

from __future__ import annotations

import os
import signal
import time

import pytest

from gunicorn_hot.channel import Channel
from gunicorn_hot.early_output import Capture
from gunicorn_hot.processes import in_words, reap
from gunicorn_hot.successor import Successor


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with code 0"),
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


def test_each_child_that_has_ended_is_reaped() -> None:
    # In a process of its own, which has no children of anybody else.
    pid = os.fork()
    if pid == 0:
        ended = {child(0): 0, child(3): 3 << 8, (killed := child(None)): signal.SIGKILL}
        running = child(None)
        os.kill(killed, signal.SIGKILL)
        for other in ended:
            os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
        found, then = reap(), reap()
        os.kill(running, signal.SIGKILL)
        os.waitpid(running, 0)
        os._exit(0 if (found, then, reap()) == (ended, {}, {}) else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_successor_that_has_been_reaped_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its last words are read after the reaping, and may be answered by an EndSuccessor.
    ours, theirs = Channel.pair()
    successor = Successor(child(0), ours, Capture())
    try:
        os.waitid(os.P_PID, successor.pid, os.WEXITED | os.WNOWAIT)
        assert successor.reap() == "exited with code 0"
        sent: list[tuple[int, int]] = []
        monkeypatch.setattr(os, "kill", lambda *args: sent.append(args))
        successor.signal(signal.SIGTERM)
        assert sent == []
    finally:
        successor.close()
        theirs.close()
