"""Which service is meant, and what it says of itself."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable
from pathlib import Path

from gunicorn_hot import processes, request, statusfile
from gunicorn_hot.cli.errors import Ambiguous, Gone, Refused
from gunicorn_hot.cli.watching import Watch
from gunicorn_hot.status import Status, StatusError, parse

#: s for a master that lives to write on, after the one that wrote has died.
SUCCESSION = 30.0
#: s for a master that lives to write its file again, if somebody has removed it; it looks once a second.
REWRITE = 5.0


def moment(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall))


def in_short(status: Status) -> str:
    """Return what tells a service from its neighbours."""
    service = status.service
    listeners = ", ".join(service.listeners)
    return f"{service.name} in {service.folder}, pid {service.pid}{f', {listeners}' if listeners else ''}"


class Service:
    """A service, by its status file."""

    def __init__(self, path: Path) -> None:
        #: As the operator would write it.
        self.name = path
        self.path = _lasting(path)
        self._stale_since: float | None = None
        self._missing_since: float | None = None
        self._last: Status | None = None

    def read(self, watch: Watch | None = None) -> Status:
        """Return what it says now, and have its masters watched.

        Raises Gone when there is none, when it has ended, or cannot be read."""
        try:
            status = parse(statusfile.read_own(str(self.path)))
        except FileNotFoundError:
            return self._missing()
        except (OSError, StatusError) as exc:
            raise Gone(f"{self.name} cannot be read: {getattr(exc, 'strerror', None) or exc}") from None
        self._last, self._missing_since = status, None
        if watch is not None:
            watch.watch(master.pid for master in status.masters)
        if status.has_ended():
            if doubt := self.doubt:
                raise Gone(f"{doubt}; {_last_word(self.name, status)}")
            raise Gone(_died(self.name, status))
        self._check_succession(status)
        return status

    def _missing(self) -> Status:
        """There is no file: return what it has last said, while a master that lives may write it again."""
        where = f"(no status file {self.name})"
        if self._last is None:
            raise Gone(f"no service: it has ended, or writes another file {where}")
        if self._last.has_ended():
            raise Gone(f"the service has ended {where}")
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
        if now > self._missing_since + REWRITE:
            left = _left_of(self._last)
            raise Gone(f"process {left} of the service is still there, and writes no status any more {where}")
        return self._last

    @property
    def doubt(self) -> str:
        """Why what it says need not be true, although its master lives; empty if there is no reason."""
        if os.access(self.path.parent, os.W_OK):
            return ""
        return f"{self.name.parent} cannot be written to: the status there may be outdated"

    def _check_succession(self, status: Status) -> None:
        if not status.is_stale():
            self._stale_since = None
            return
        now = time.monotonic()
        if self._stale_since is None:
            self._stale_since = now
        if now > self._stale_since + SUCCESSION:
            raise Gone(f"{_died(self.name, status)}; {_left_of(status)} is left of it and says nothing")

    def ask(self, command: str) -> str:
        """Ask the serving master for something; returns the request's id. Raises Gone."""
        try:
            return request.send(str(self.path), command, _asker())
        except StatusError as exc:
            raise Gone(str(exc)) from None
        except ProcessLookupError:
            self.read()  # has more to say, if the service has ended
            raise Gone(f"the serving master has just ended; look with: {self.command('status')}") from None
        except PermissionError as exc:
            if self.doubt:
                raise Gone(f"this service cannot be asked: {self.name.parent} cannot be written to") from None
            self.withdraw()
            raise Gone(f"no permission to ask this service ({exc.strerror}): it is another user's") from None
        except OSError as exc:
            raise Gone(f"this service cannot be asked: {exc}") from None

    def is_unread(self, identity: str) -> bool:
        """Whether no master has read the request of this id yet."""
        try:
            return identity.encode() in Path(request.path(str(self.path))).read_bytes()
        except OSError:
            return False

    def withdraw(self) -> None:
        try:
            os.unlink(request.path(str(self.path)))
        except OSError:
            pass

    def command(self, name: str) -> str:
        """Return the command line of another command about this service."""
        if self.name == self.path or self._last is None:
            return f"gunicorn-hot {name} --status-file {self.name}"
        return f"gunicorn-hot {name} --pid {self._last.service.pid}"


def _lasting(path: Path) -> Path:
    """Return a path that is good for as long as this process runs.

    Below /proc/<pid>/root, where the /tmp of a service with PrivateTmp is seen, it is gone when that process ends."""
    if path.parts[1:2] != ("proc",):
        return path
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return path  # the reader says so
    return Path(f"/proc/self/fd/{folder}", path.name)


def _left_of(status: Status) -> str:
    return ", ".join(str(master.pid) for master in status.masters if status.is_alive(master))


def _died(path: Path, status: Status) -> str:
    return f"the service has died: {in_short(status)}; {_last_word(path, status)}"


def _last_word(path: Path, status: Status) -> str:
    when = moment(status.written.at)
    return f"its master {status.written.pid} last wrote {path} at {when}, and ended without removing it"


def _asker() -> str:
    try:
        who = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        who = str(os.getuid())
    try:
        return f"{who}@{os.ttyname(0).removeprefix('/dev/')}"
    except OSError:
        return who


# --- finding it


def find(status_file: Path | None = None, pid_file: Path | None = None, pid: int | None = None) -> Service:
    """Return the service that the options name, or the only one of this user.

    Raises Gone when there is none, and Ambiguous when there are several. As root, this process becomes the user whose
    service it is: what it writes is then theirs, and it can be led nowhere else."""
    if status_file is not None:
        _become_owner(status_file)
        service = Service(status_file.absolute())
        service.read()
        return service
    if pid_file is not None:
        pid = _pid_in(pid_file)
    if pid is not None:
        return _of_pid(pid, "" if pid_file is None else f" (from {pid_file})")
    return _only_one()


def _pid_in(path: Path) -> int:
    try:
        text = path.read_text(errors="replace").strip()
    except OSError as exc:
        raise Gone(f"no pid file {path}: {exc.strerror}") from None
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise Gone(f"{path} is no pid file: it has no process id in it, but {text[:40]!r}")
    return int(text)


def _all(paths: Iterable[Path]) -> list[tuple[Path, Status]]:
    """Return those that can be read; of a path that is reached twice, one."""
    found: dict[str, tuple[Path, Status]] = {}
    for path in paths:
        try:
            status = parse(statusfile.read_own(str(path)))
        except (OSError, StatusError):
            continue
        found.setdefault(os.path.realpath(path), (path, status))
    return list(found.values())


def _of_pid(pid: int, source: str) -> Service:
    uid = _user_of(pid)
    if uid is None:
        hint = "".join(f"; {_died(path, s)}" for path, s in _all(_own()) if s.service.pid == pid and s.has_ended())
        raise Gone(f"there is no process {pid}{source} that runs{hint}")
    if os.geteuid() == 0:
        _become(uid)
    elif uid != os.geteuid():
        raise Gone(f"process {pid}{source} belongs to the user {_user(uid)}: ask as that user, or as root")
    for path, status in _all([*_own(), *_private(pid, uid)]):
        pids = {master.pid: master for master in status.masters}
        if pid in pids and status.is_alive(pids[pid]):
            return Service(path)
        if not status.has_ended() and any(worker.pid == pid for master in status.masters for worker in master.workers):
            raise Gone(f"process {pid}{source} is a worker; its service: --pid {status.service.pid}")
    raise Gone(
        f"process {pid}{source} is no service with gunicorn_hot, or its status file is elsewhere or cannot be written: "
        "if hot_status_file is set, name it with --status-file"
    )


def _only_one() -> Service:
    found = _all(_own())
    alive = [(path, status) for path, status in found if not status.has_ended()]
    if len(alive) == 1:
        return Service(alive[0][0])
    user = _user(os.geteuid())
    if alive:
        lines = [f"{len(alive)} services of {user}; choose one:"]
        lines += [f"  --pid {status.service.pid:<8} {in_short(status)}" for _, status in alive]
        raise Ambiguous("\n".join(lines))
    died = max(found, key=lambda one: one[1].written.at, default=None)
    text = f"{user} has no service with gunicorn_hot that runs; name another one by --pid-file, --pid or --status-file"
    raise Gone(f"{text}; {_died(*died)}" if died else text)


def _own() -> list[Path]:
    return [Path(path) for path in statusfile.find()]


def _private(pid: int, uid: int) -> list[Path]:
    """Return the status files that a process of this user may have in a /tmp of its own, as systemd's PrivateTmp makes,
    or in its runtime folder, which the environment of root does not name."""
    folders = [f"/run/user/{uid}/gunicorn_hot", f"/proc/{pid}/root/tmp/gunicorn_hot-{uid}"]
    found: list[Path] = []
    for folder in folders:
        try:
            if not statusfile.unsafe(folder):
                found += sorted(Path(folder).glob(f"*{statusfile.SUFFIX}"))
        except OSError:
            pass
    return found


def _user_of(pid: int) -> int | None:
    """Return the effective user of a process; None when it has ended, even as a zombie."""
    if not processes.start_time(pid):
        return None
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[2]) for line in lines if line.startswith("Uid:")), None)


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return str(uid)


def _become_owner(path: Path) -> None:
    if os.geteuid() == 0:
        try:
            _become(path.stat().st_uid)
        except OSError:
            pass  # there is none: the reader says so


def _become(uid: int) -> None:
    """As root, become this user for good."""
    if uid == os.geteuid():
        return
    try:
        group = pwd.getpwuid(uid).pw_gid
    except KeyError:
        group = uid
    try:
        os.setgroups([])
        os.setgid(group)
        os.setuid(uid)
    except OSError as exc:
        raise Refused(f"cannot become the user {_user(uid)}: {exc.strerror}") from None
