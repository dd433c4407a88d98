"""The mixed clients of `upgrade` and `cutover`, and the server that they need."""

from __future__ import annotations

_CLIENTS = {"new": 4, "keep": 4, "idle": 8, "slow": 4, "upload": 2, "stream": 2}
_SYNC_CLIENTS = {"new": 2, "keep": 1, "idle": 4, "slow": 1, "upload": 1, "stream": 1}

#: What a slow request, an upload and a stream take, in ms: more than the probation, so that some are drained.
SLOW_MS = 1500


def mix(worker: str, workers: int) -> tuple[dict[str, int], dict[str, int]]:
    """How many clients of each kind, and the gunicorn settings with which one of `workers` is always free.

    A wait for a busy worker says nothing about upgrades. So gthread has a thread for each client, even if all
    of them meet in one worker. A sync worker is taken for as long as a slow request, an upload or a stream
    lasts: there is one of each of these, and one more worker for each; the other clients share `workers`.
    """
    if worker == "sync":
        slow = sum(_SYNC_CLIENTS[kind] for kind in ("slow", "upload", "stream"))
        return _SYNC_CLIENTS, {"workers": workers + slow}
    if worker == "gthread":
        return _CLIENTS, {"workers": workers, "threads": sum(_CLIENTS.values())}
    return _CLIENTS, {"workers": workers}
