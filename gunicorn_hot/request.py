"""What an operator asks of a master: a file beside the status, and SIGURG.

SIGURG, because a process that expects none ignores it: should the pid have become somebody else's, no harm is done. So
does a master of a release that knows no requests.

The answer is in the status. An upgrade or a check has the request's id, in `upgrade` and later in `history`; what is
not granted is `refused`, with a reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import uuid
from dataclasses import dataclass

from gunicorn_hot import statusfile

COMMANDS = ("upgrade", "check", "abort", "rollback", "commit")
SIGNAL = signal.SIGURG
_SUFFIX = ".request"
_LONGEST = 200


class RequestError(Exception):
    """The file is no request that a master would grant, and why."""


@dataclass(frozen=True)
class Request:
    id: str
    #: One of COMMANDS.
    command: str
    #: Who asks, in words for the log: "user@pts/3".
    by: str = ""


def path(status_path: str) -> str:
    return status_path + _SUFFIX


def send(status_path: str, command: str, by: str = "") -> str:
    """Ask the serving master; returns the request's id, which the status will name.

    Raises StatusError when there is no status, ProcessLookupError when its master is gone, and OSError when the request
    cannot be written or the signal not be sent. A request that meets a hand-over is found by the new master."""
    status = statusfile.read(status_path)
    master = status.master("serving")
    if master is None or not status.is_alive(master):
        raise ProcessLookupError(f"{status_path}: the master that it names is gone")
    asked = Request(str(uuid.uuid4()), command, by)
    # Root asks a master that could not read root's own file.
    owner = os.stat(status_path).st_uid
    statusfile.replace(path(status_path), json.dumps(vars(asked)), owner if owner != os.geteuid() else None)
    os.kill(master.pid, SIGNAL)
    return asked.id


def take(status_path: str) -> Request | None:
    """In the master: return the request and remove it, or None if there is none.

    Raises RequestError, with the file removed if that is possible."""
    name = path(status_path)
    # A name of its own: another request may be written while this one is read.
    taken = f"{name}.taken"
    try:
        os.rename(name, taken)
        text = statusfile.read_own(taken)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise RequestError(str(exc)) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(taken)
    try:
        value = json.loads(text)
        found = Request(*(_short(value.get(key, "")) for key in ("id", "command", "by")))
    except (ValueError, RecursionError, AttributeError, TypeError) as exc:
        raise RequestError(f"{name} is not understood: {exc}") from None
    if not found.id:
        raise RequestError(f"{name} has no id")
    return found


def _short(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no string")
    # It ends up in log lines.
    return "".join(character for character in value[:_LONGEST] if character.isprintable())
