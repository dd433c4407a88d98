"""The hot twin of each worker class: the same worker, with a gate, a pause and a drain.

`twin` finds or makes it for whatever `worker_class` names, so that nobody has to change that setting. Each type has one
module here, imported only when it is used: gevent may not be installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gunicorn_hot.workers.base import HotWorker

#: The stock class, by module and name -> ours.
_TWINS = {
    "gunicorn.workers.sync.SyncWorker": "gunicorn_hot.workers.sync.SyncWorker",
    "gunicorn.workers.gthread.ThreadWorker": "gunicorn_hot.workers.gthread.ThreadWorker",
    "gunicorn.workers.ggevent.GeventWorker": "gunicorn_hot.workers.ggevent.GeventWorker",
    "gunicorn.workers.gasgi.ASGIWorker": "gunicorn_hot.workers.gasgi.ASGIWorker",
    "uvicorn_worker._workers.UvicornWorker": "gunicorn_hot.workers.uvicorn.UvicornWorker",
    "uvicorn_worker._workers.UvicornH11Worker": "gunicorn_hot.workers.uvicorn.UvicornH11Worker",
    "uvicorn.workers.UvicornWorker": "gunicorn_hot.workers.uvicorn_deprecated.UvicornWorker",
    "uvicorn.workers.UvicornH11Worker": "gunicorn_hot.workers.uvicorn_deprecated.UvicornH11Worker",
}


def twin(worker_class: type[Any]) -> type[Any]:
    """Return the hot class for `worker_class`: itself, its twin, a mixture, or one that at least has the gate."""
    if issubclass(worker_class, HotWorker):
        return worker_class
    why = "gunicorn_hot does not know it"
    for stock in worker_class.__mro__:
        name = f"{stock.__module__}.{stock.__qualname__}"
        if name not in _TWINS:
            continue
        module, _, attribute = _TWINS[name].rpartition(".")
        found: type[Any] = getattr(import_module(module), attribute)
        if stock is worker_class:
            return found
        from gunicorn_hot.workers import mixing

        obstacle = mixing.obstacle(worker_class, found, stock)
        try:
            if obstacle is None:
                return mixing.mixed(worker_class, found)
            why = obstacle
        except TypeError as exc:
            why = str(exc)
        break
    from gunicorn_hot.workers.other import gated

    return gated(worker_class, why)
