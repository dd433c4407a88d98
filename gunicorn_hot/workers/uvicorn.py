"""The hot twins of the workers in the package uvicorn-worker."""

from __future__ import annotations

import uvicorn_worker  # type: ignore[import-untyped]

from gunicorn_hot.workers.uvicorn_server import UvicornMixin


class UvicornWorker(UvicornMixin, uvicorn_worker.UvicornWorker):  # type: ignore[misc]
    pass


class UvicornH11Worker(UvicornMixin, uvicorn_worker.UvicornH11Worker):  # type: ignore[misc]
    pass
