"""The hot twins of the workers that uvicorn itself still has, and wants to be found in uvicorn-worker."""

from __future__ import annotations

from uvicorn import workers

from gunicorn_hot.workers.uvicorn_server import UvicornMixin


class UvicornWorker(UvicornMixin, workers.UvicornWorker):
    pass


class UvicornH11Worker(UvicornMixin, workers.UvicornH11Worker):
    pass
