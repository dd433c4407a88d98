"""Where the status of a service is, how it gets there, and how somebody finds it.

The file lies in a folder that is its user's alone, so that nobody else can write what an operator will read, or ask
a master for anything: see `request`.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from pathlib import Path

from gunicorn_hot.mirror import Mirror
from gunicorn_hot.status import Status, StatusError, parse

SUFFIX = ".json"
#: s; a service that lives touches its file far more often.
_FORGOTTEN = 86400.0

#: In a hot master and in its workers: the path of the service's status file; "" when there is none.
own_path = ""
#: There too: what workers that cannot read it see of it; None when they can.
mirror: Mirror | None = None


def folders() -> list[str]:
    """Return where a service of this user puts its status unless `hot_status_file` says otherwise, best first."""
    uid = os.geteuid()
    found = []
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        try:
            # Another user's, after a sudo that keeps the environment, is no place for ours.
            if os.path.isabs(runtime) and os.stat(runtime).st_uid == uid:
                found.append(os.path.join(runtime, "gunicorn_hot"))
        except OSError:
            pass
    # Not $TMPDIR first: a service and the shell of its operator need not agree about that.
    shared = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()
    return [*found, os.path.join(shared, f"gunicorn_hot-{uid}")]


def default(service: int) -> str:
    """Return the path for a service whose first master is `service`, and make its folder.

    Raises OSError when there is no folder that is this user's alone."""
    problems = []
    for folder in folders():
        try:
            _make_safe(folder)
        except OSError as exc:
            problems.append(str(exc))
        else:
            _tidy(folder)
            return os.path.join(folder, f"{service}{SUFFIX}")
    raise OSError("; ".join(problems))


def _make_safe(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    if why := unsafe(folder):
        raise OSError(why)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"{folder} cannot be written to")


def _tidy(folder: str) -> None:
    """Remove what services that were killed have left behind.

    A day old, too: a service in another pid namespace, with the same folder, only looks as if it had ended."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        path = os.path.join(folder, name)
        try:
            is_old = time.time() - os.lstat(path).st_mtime > _FORGOTTEN
            if is_old and (not name.endswith(SUFFIX) or read(path).has_ended()):
                os.unlink(path)
        except (OSError, StatusError):
            pass


def remake_folder(path: str) -> None:
    """Make the folder of a status file again, if it is a default one. Raises OSError, also when another user has it."""
    folder = os.path.dirname(path)
    if folder in folders():
        _make_safe(folder)


def unsafe(folder: str) -> str:
    """Say why a folder is not this user's alone, or return "". Raises OSError when there is none."""
    found = os.lstat(folder)  # a link could have been put there by anybody
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is no directory"
    if found.st_uid != os.geteuid():
        return f"{folder} belongs to the user {found.st_uid}"
    if found.st_mode & 0o077:
        return f"{folder} is open to others (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def find() -> list[str]:
    """Return the paths of all status files of this user's services in the default folders, stale ones too."""
    found: list[str] = []
    for folder in folders():
        try:
            if not unsafe(folder):
                found += sorted(os.path.join(folder, n) for n in os.listdir(folder) if n.endswith(SUFFIX))
        except OSError:
            pass
    return found


def read(path: str | Path) -> Status:
    """Return what the file says now. Raises StatusError, which names the file."""
    try:
        # Root may look at every user's services.
        return parse(read_own(str(path), anybodys=os.geteuid() == 0))
    except OSError as exc:
        raise StatusError(f"{path}: {exc.strerror or exc}") from None
    except StatusError as exc:
        raise StatusError(f"{path}: {exc}") from None


def read_own(path: str, anybodys: bool = False) -> bytes:
    """Return a file's contents. Raises OSError, also when it is a link, no file, or neither this user's nor root's."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is no regular file")
        if not anybodys and found.st_uid not in (os.geteuid(), 0):
            raise OSError(f"{path} belongs to the user {found.st_uid}")
        return file.read()


def replace(path: str, text: str, owner: int | None = None) -> None:
    """Make `text` the contents of the file, mode 0600; a reader finds the old one or the new. Raises OSError.

    `owner`: whose it will be, if not this process's user's."""
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=f".{os.path.basename(path)}.")
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            if owner is not None:
                os.fchown(fd, owner, -1)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
