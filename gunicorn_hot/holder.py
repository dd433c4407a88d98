"""The holder: what an old master becomes, by exec, so that the pid of the service stays.

It is this file alone, run as ``python -I -S -c <text>``: no application, no gunicorn, nothing installed, since all of
that may be replaced while it lives. It passes signals on to the service's master, reaps what is orphaned (it is a
subreaper), follows each hand-over, says to the service manager what masters ask it to say, and ends as the service
ends. Its own end is an EOF for every master, which then stops.

`Hold` decides and does nothing; the functions below it do. A master that still drains uses `Hold` too.

The masters speak over one SOCK_SEQPACKET pair, whose other end is inherited by each. A message is lines of
``NAME=value``; names that are not known are skipped, since a later release may say more:

    MASTER=4722       I am the service's master now,
    GENERATION=5      of this generation,
    NAME=shop         with this name, for the process's title,
    PIDFILE=/run/x    and this pid file, which is to name the holder; empty: none

    EXITED=4730       I have reaped this master, my successor,
    CODE=-9           which ended so

    NOTIFY            send the lines after this one to the service manager
"""

from __future__ import annotations

import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    Action = tuple[str, int, int]
else:
    # What `signal` and `socket` add to these, enumerations, would be a tenth of the memory.
    import _signal as signal

#: Longest message, bytes.
LONGEST = 65536
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: All that a hot master listens to.
PASSED_ON = (
    *_STOPS, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
    signal.SIGURG,
)  # fmt: skip
SEND, END = "send", "end"


class Hold:
    """Who the service's master is, what it is told, and when the service is over. Pure.

    Each method takes something that happened and returns what to do: (SEND, pid, signal), or (END, exit code, 0). An
    exit code is as `os.waitstatus_to_exitcode` has it: a negative one is a signal."""

    def __init__(self, patience: float) -> None:
        #: Every master that has announced itself, oldest first -> its exit code, or None.
        self.masters: dict[int, int | None] = {}
        self.generation = 0
        #: Seconds in which another master may announce itself after the last one has died; 0: no limit.
        self.patience = patience
        #: The signal by which the service was told to stop, or 0.
        self.stopping = 0
        self.deadline: float | None = None

    @property
    def master(self) -> int:
        """The pid of the service's master; 0 before one has announced itself."""
        return next(reversed(self.masters), 0)

    def announced(self, pid: int, generation: int) -> tuple[Action, ...]:
        """A master says that it is the service now. One may say so again: it has taken back.

        Later ones are its own affair then; it reaps them, and their pids may become somebody else's."""
        if pid in self.masters:
            while self.master != pid:
                self.masters.popitem()
        self.masters[pid] = None
        self.generation = generation
        self.deadline = None
        # The one that was told may have handed over just before it heard of it.
        return ((SEND, pid, self.stopping),) if self.stopping else ()

    def signalled(self, sig: int) -> tuple[Action, ...]:
        """This process got a signal that is not meant for it."""
        if sig in _STOPS:
            self.stopping = sig
        # These also to masters that still drain: they write logs, and the end of the service waits for them.
        everybody = sig in _STOPS or sig == signal.SIGUSR1
        living = [pid for pid, code in reversed(self.masters.items()) if code is None]
        return tuple((SEND, pid, sig) for pid in living if everybody or pid == self.master)

    def exited(self, pid: int, code: int, now: float) -> tuple[Action, ...]:
        """A process has been reaped, here or by its own predecessor; most are no masters."""
        if pid in self.masters:
            self.masters[pid] = code
            if self.patience and all(code is not None for code in self.masters.values()):
                self.deadline = now + self.patience
        return ()

    def ended(self, is_child: bool) -> tuple[Action, ...]:
        """No process has the other end of the channel any more; `is_child`: the master has yet to be reaped."""
        return () if is_child else self._end()

    def told(self, said: dict[str, str], now: float) -> tuple[Action, ...]:
        """A master has sent a message: `fields` of it."""
        try:
            if "MASTER" in said:
                return self.announced(int(said["MASTER"]), int(said["GENERATION"]))
            if "EXITED" in said:
                return self.exited(int(said["EXITED"]), int(said["CODE"]), now)
        except (KeyError, ValueError):
            pass  # of a later release, which may know why
        return ()

    def tick(self, now: float) -> tuple[Action, ...]:
        """Time went by."""
        return self._end() if self.deadline is not None and now >= self.deadline else ()

    def _end(self) -> tuple[Action, ...]:
        if self.masters and (code := self.masters[self.master]) is not None:
            return ((END, code, 0),)
        # Another master has reaped it, and has ended since.
        codes = [code for code in self.masters.values() if code is not None]
        return ((END, codes[-1] if codes else 1, 0),)


def fields(message: bytes) -> dict[str, str]:
    """Return the names and values of a message's lines; a line without "=" has the rest of the message as value."""
    found: dict[str, str] = {}
    rest = message.decode(errors="surrogateescape")
    while rest:
        line, _, rest = rest.partition("\n")
        name, equals, value = line.partition("=")
        if not equals:
            found[name] = rest
            break
        found[name] = value
    return found


def write_pidfile(path: str, pid: int) -> None:
    """Make the file name `pid`, atomically. Raises OSError, with the old file in place."""
    temporary = f"{path}.{pid}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.write(fd, b"%d\n" % pid)
            os.fchmod(fd, 0o644)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove_pidfile(path: str, pid: int) -> None:
    """Remove the file if it names `pid`."""
    try:
        with open(path, "rb") as file:
            found = int(file.read())
        if found == pid:
            os.unlink(path)
    except (OSError, ValueError):
        pass


def keep_pidfile(before: str, path: str) -> str:
    """Let the file `path` name this process, and no more the file `before`; return which one does."""
    pid = os.getpid()
    if path:
        try:
            write_pidfile(path, pid)
        except OSError as exc:
            say(f"Pid file: {exc}")
            return before
    if before and before != path:
        remove_pidfile(before, pid)
    return path


def say(text: str) -> None:
    """Write a line to the standard error: there is no log here."""
    try:
        os.write(2, f"[{os.getpid()}] [gunicorn hot holder] {text}\n".encode(errors="surrogateescape"))
    except OSError:
        pass


def notify(address: str, state: str) -> None:
    """Send a datagram to the service manager. Raises OSError."""
    import _socket

    name = "\0" + address[1:] if address.startswith("@") else address
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)  # a manager that does not read must not stop us
        sock.sendto(state.encode(errors="surrogateescape"), name)
    finally:
        sock.close()


class Holder:
    """The process: does what its `Hold` says."""

    def __init__(self, fd: int, hold: Hold, name: str, pidfile: str, notify_address: str) -> None:
        self.fd = fd
        self.hold = hold
        self.name = name
        self.pidfile = pidfile
        self.notify_address = notify_address
        self.pid = os.getpid()
        self.closed = False

    def run(self, pending: list[int]) -> None:
        """Hold until the service is over; never returns. `pending`: signals that came before this could begin.

        All signals of PASSED_ON, and SIGCHLD, must be blocked."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        os.set_blocking(self.fd, False)
        signals: list[int] = list(pending)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for sig in PASSED_ON:
            signal.signal(sig, lambda number, frame: signals.append(number))
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*PASSED_ON, signal.SIGCHLD))
        poll = select.poll()
        poll.register(read, select.POLLIN)
        poll.register(self.fd, select.POLLIN)
        self._retitle()
        while True:
            self._reap()
            while signals:
                self._signalled(signals.pop(0))
            self._perform(self.hold.tick(_now()))
            deadline = self.hold.deadline
            wait = None if deadline is None else max(0, int((deadline - _now()) * 1000) + 1)
            if self.closed and self.fd >= 0:
                poll.unregister(self.fd)
                os.close(self.fd)
                self.fd = -1
            poll.poll(wait)
            try:
                os.read(read, 4096)
            except BlockingIOError:
                pass

    def _signalled(self, sig: int) -> None:
        if sig in _STOPS and not self.hold.stopping:
            self._notify("STOPPING=1\nSTATUS=Stopping")
        self._perform(self.hold.signalled(sig))

    def _reap(self) -> None:
        """Reap what has died; but first hear what it had to say: a hand-over comes before the death."""
        dead = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            dead.append((pid, os.waitstatus_to_exitcode(status)))
        self._receive()
        for pid, code in dead:
            self._perform(self.hold.exited(pid, code, _now()))
        if self.closed:
            self._perform(self.hold.ended(_is_child(self.hold.master)))

    def _receive(self) -> None:
        while not self.closed:
            try:
                message = os.read(self.fd, LONGEST)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # somebody died with something unread; what it had said is still to come
            if not message:
                self.closed = True
                return
            self._obey(fields(message))

    def _obey(self, said: dict[str, str]) -> None:
        if "NOTIFY" in said:
            self._notify(said["NOTIFY"])
        self._perform(self.hold.told(said, _now()))
        if "MASTER" not in said:
            return
        self.name = said.get("NAME", self.name)
        self.pidfile = keep_pidfile(self.pidfile, said.get("PIDFILE", self.pidfile))
        self._retitle()

    def _notify(self, state: str) -> None:
        if self.notify_address:
            try:
                notify(self.notify_address, state)
            except OSError:
                pass  # nobody to tell that to

    def _perform(self, actions: tuple[Action, ...]) -> None:
        for what, number, sig in actions:
            if what == SEND:
                try:
                    os.kill(number, sig)
                except ProcessLookupError:
                    pass  # reaped by its own predecessor
            else:
                self._end(number)

    def _end(self, code: int) -> None:
        if self.pidfile:
            remove_pidfile(self.pidfile, self.pid)
        if code >= 0:
            os._exit(code)
        say(f"Master (pid:{self.hold.master}) was killed by signal {-code}, and so ends the service")
        try:
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core that matters has been written
        except (ImportError, OSError, ValueError):
            pass
        try:
            signal.signal(-code, signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # SIGKILL has no other
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
        os.kill(self.pid, -code)
        # The kernel protects PID 1 from that.
        os._exit(128 - code)

    def _retitle(self) -> None:
        hold = self.hold
        set_title(f"gunicorn: hot [{self.name}] for master {hold.master}, generation {hold.generation}")


def set_title(title: str) -> None:
    """Write the process's title over its arguments. Linux only; elsewhere, or if /proc is not there, does nothing."""
    try:
        with open("/proc/self/stat", "rb") as file:
            start, end = map(int, file.read().rpartition(b")")[2].split()[45:47])
        text = title.encode(errors="surrogateescape")[: end - start - 1]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(text.ljust(end - start, b"\0"))
    except (OSError, ValueError, OverflowError):
        pass


def _now() -> float:
    import time

    return time.monotonic()


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, OSError):
        return False
    return True


def close_all_but(fd: int) -> None:
    """Close what was left open, except the standard streams and `fd`."""
    try:
        # Not all numbers up to the limit: that may be a thousand million.
        opened = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        opened = list(range(1024))
    for number in opened:
        if number > 2 and number != fd:
            try:
                os.close(number)
            except OSError:
                pass  # that of the listing, or none


def main(arguments: list[str]) -> Any:
    """Hold, as the arguments NAME=value say; never returns."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    hold = Hold(float(given["patience"]))
    for entry in filter(None, given["masters"].split(",")):
        pid, _, code = entry.partition(":")
        hold.announced(int(pid), int(given["generation"]))
        hold.masters[int(pid)] = int(code) if code else None
    hold.stopping = int(given["stopping"])
    fd = int(given["fd"])
    if given.get("alone"):
        close_all_but(fd)
        os.chdir("/")  # not a release's folder, which will be removed
    holder = Holder(fd, hold, given["name"], given["pidfile"], os.environ.get("NOTIFY_SOCKET", ""))
    holder.run([int(sig) for sig in given["signals"].split(",") if sig])


if __name__ == "__main__" and sys.argv[0] == "-c":
    main(sys.argv[1:])
