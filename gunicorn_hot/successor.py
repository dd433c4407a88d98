"""What the old master does to the new one: execute it, talk to it, end it, and hear how it ended."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gunicorn_hot import early_output, listeners, private
from gunicorn_hot.channel import Channel
from gunicorn_hot.inheritance import (
    CHANNEL_VARIABLE,
    CHECK_VARIABLE,
    GENERATION_VARIABLE,
    HOLDER_VARIABLE,
    STATUS_VARIABLE,
    is_ours,
)
from gunicorn_hot.processes import in_words

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

#: So many pids are said in one line.
_NAMED = 4


def command() -> list[str]:
    """Return the argv that this process was started with, interpreter first.

    Not sys.argv: ``python -m gunicorn`` would come back as a path, with the package's folder first on sys.path."""
    return [sys.executable, *sys.orig_argv[1:]]


def environment(server: Arbiter) -> dict[str, str]:
    """Return the environment of the new master: the one that this master was started with, and what it inherits."""
    env = {name: value for name, value in server.cfg.env_orig.items() if not is_ours(name)}
    env["GUNICORN_PID"] = str(server.pid)
    return env | listeners.describe(server.LISTENERS, server.systemd)


class Successor:
    """One executed master: its pid, the channel to it, and what it has said of itself."""

    def __init__(self, pid: int, channel: Channel, output: early_output.Capture) -> None:
        self.pid = pid
        self.channel = channel
        self.output = output
        self.greeted = False
        self.reaped = False
        #: As `os.waitstatus_to_exitcode` has it, if it was this master that has reaped it.
        self.exit_code: int | None = None
        self.ready = 0
        self.total = 0
        #: Pids of workers that it has started and that are not ready; what it waits for, if it has said so.
        self.loading: list[int] = []
        self.waits = ""

    @classmethod
    def start(cls, server: Arbiter, generation: int, hold: int | None, status: str, check: bool) -> Successor:
        """Fork, and exec in the child. Raises OSError when there can be no child, or none that could serve.

        `hold`: the descriptor of its channel to the process that has the service's pid, or None. `status`: the path of
        the service's status, or "". `check`: it is not to serve. What goes wrong in the child, before or in its exec,
        comes over its channel to us as "failed"."""
        output = early_output.Capture()
        try:
            ours, theirs = Channel.pair()
        except OSError:
            output.close()
            raise
        private.register(ours)
        try:
            env = environment(server)
            env[GENERATION_VARIABLE] = str(generation)
            if check:
                env[CHECK_VARIABLE] = "1"
            if status:
                env[STATUS_VARIABLE] = status
            if hold is not None:
                env[HOLDER_VARIABLE] = str(hold)
            # A signal that meets the child before its exec would run the parent's handlers there, and be lost.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, server.SIGNALS)
            try:
                pid = os.fork()
                if pid == 0:
                    _exec(server, theirs, [] if hold is None else [hold], output, env, mask)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except BaseException:
            private.forget(ours)
            output.close()
            raise
        finally:
            theirs.close()
        private.register(output)
        return cls(pid, ours, output)

    def lacks(self) -> str:
        """Return, by what it has said, what keeps it from being ready, and how far it is."""
        what = self.waits
        if not what and len(self.loading) == 1:
            what = f"worker (pid: {self.loading[0]}) still loads the application"
        elif not what and self.loading:
            pids = ", ".join(map(str, self.loading[:_NAMED])) + (", ..." if len(self.loading) > _NAMED else "")
            what = f"workers (pids: {pids}) still load the application"
        count = f"{self.ready} of {self.total} workers ready" if self.total else ""
        return "; ".join(filter(None, (what, count)))

    def signal(self, sig: int) -> None:
        """Send a signal, unless this master has reaped the process: from then on its pid may be another's."""
        if not self.reaped:
            try:
                os.kill(self.pid, sig)
            except ProcessLookupError:
                self.reaped = True

    def reap(self) -> str | None:
        """Return how it ended, in words, or None while it runs."""
        if self.exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.reaped = True
                return "ended, with a status that somebody else has reaped"
            if not pid:
                return None
            self.has_ended(status)
        assert self.exit_code is not None
        end = in_words(self.exit_code)
        lines = self.early_words().split("\n")
        return f"{end}: {lines[-1]}" if lines[-1] else end

    def has_ended(self, status: int) -> None:
        """Take note that it was reaped, with a status as `os.waitpid` has it."""
        self.reaped = True
        self.exit_code = os.waitstatus_to_exitcode(status)

    def early_words(self) -> str:
        """Return what it has written to its standard error, if it has ended before it spoke to us."""
        return "" if self.greeted else self.output.text()

    def close(self) -> None:
        private.forget(self.channel)
        private.forget(self.output)


def _exec(
    server: Any,
    channel: Channel,
    inherited: Iterable[int],
    output: early_output.Capture,
    env: dict[str, str],
    mask: Iterable[int],
) -> None:
    """Become the new master, in the child of a fork, with `mask` as its signal mask. Never returns."""
    try:
        for number in server.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        channel.set_inheritable()
        for fd in inherited:
            os.set_inheritable(fd, True)
        env[CHANNEL_VARIABLE] = str(channel.fileno())
        server.cfg.pre_exec(server)
        os.chdir(server.START_CTX["cwd"])
        if not server.cfg.hot_leave:
            # A successor that is no gunicorn_hot would never take its standard error back.
            env[early_output.VARIABLE] = output.redirect()
        argv = server.cfg.hot_exec
        if argv is None:
            os.execvpe(server.START_CTX[0], server.START_CTX["args"], env)
        os.execvpe(argv[0], argv, env)
    except BaseException as exc:
        channel.send("failed", reason=f"{type(exc).__name__}: {exc}")
    finally:
        os._exit(1)
