"""What gunicorn's own control socket understands in a hot master: ``gunicornc -c "show hot"``, and "upgrade".

gunicorn starts the server of that socket, in a thread of its own; here it only learns further commands. Where gunicorn
has no control socket, or another kind of it, nothing is said about that: the status file and the signals are there.
"""

from __future__ import annotations

import dataclasses
import os
import signal
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


def extend(server: Any, reporter: Reporter) -> None:
    """Let gunicorn's control server know the commands of above."""
    kind = type(server)
    if not hasattr(kind, "_execute_command"):
        return

    def execute(self: Any, parts: list[str]) -> Any:
        words = [part.lower() for part in parts]
        if words == ["show", "hot"]:
            return _status(reporter)
        if len(words) == 1 and words[0] in request.COMMANDS:
            return _ask(reporter, words[0])
        result = kind._execute_command(self, parts)
        if words == ["help"]:
            result["commands"].update(_HELP)
        return result

    server.__class__ = type(f"Hot{kind.__name__}", (kind,), {"_execute_command": execute})


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
