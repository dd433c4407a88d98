"""What gunicorn's control socket understands in a hot master beside gunicorn's commands: "show hot", "upgrade", ...

They are run in the thread of the socket's server, so they only read the status file and write a request.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gunicorn_hot import request, statusfile
from gunicorn_hot.status import StatusError

if TYPE_CHECKING:
    from gunicorn_hot.reporter import Reporter

_HELP = {
    "show hot": "Show generations, the upgrade that is under way, and the last ones",
    "upgrade": "Upgrade to what is installed now (USR2)",
    "check": "Boot what is installed now, up to ready, and end it",
    "abort": "End the upgrade that is under way, before its commit",
    "rollback": "Take back an upgrade in probation",
    "commit": "End the probation now",
}


def execute(parts: list[str], reporter: Reporter, gunicorns: Callable[[list[str]], Any]) -> Any:
    """Return what the command answers, ours or gunicorn's. Raises ValueError when it is refused."""
    words = [part.lower() for part in parts]
    if words == ["show", "hot"]:
        return _status(reporter)
    if len(words) == 1 and words[0] in request.COMMANDS:
        return _ask(reporter, words[0])
    result = gunicorns(parts)
    if words == ["help"]:
        result["commands"].update(_HELP)
    return result


def _status(reporter: Reporter) -> dict[str, Any]:
    # The file, if there is one: this is not the master's main thread.
    return dataclasses.asdict(statusfile.read(reporter.path) if reporter.path else reporter.status())


def _ask(reporter: Reporter, command: str) -> dict[str, Any]:
    if reporter.path:
        try:
            return {"asked": command, "id": request.send(reporter.path, command, "gunicornc")}
        except (OSError, StatusError) as exc:
            if command != "upgrade":
                raise ValueError(str(exc)) from None
    elif command != "upgrade":
        raise ValueError("there is no status file (hot_status_file), and so no requests")
    os.kill(os.getpid(), signal.SIGUSR2)
    return {"asked": command}
