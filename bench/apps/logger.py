"""gunicorn's logger, with a clock that both generations and the bench share."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from gunicorn.glogging import Logger as GunicornLogger

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler      # generic from Python 3.11 on


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{time.monotonic_ns()} {record.process} {super().format(record)}"


class _Handler(_StreamHandler):
    """Holds what is below INFO until the next line that is not, and writes both at once."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(_Formatter("%(levelname)s %(message)s"))
        self._held: list[str] = []
        os.register_at_fork(after_in_child=self._held.clear)

    def emit(self, record: logging.LogRecord) -> None:
        self._held.append(self.format(record))
        if record.levelno >= logging.INFO:
            # One write, so that lines of several processes do not mix.
            os.write(self.stream.fileno(), "".join(f"{line}\n" for line in self._held).encode())
            self._held.clear()


class Logger(GunicornLogger):
    """Each line of the error log begins with `time.monotonic_ns()`, of when it was logged, and the pid."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers[:] = [_Handler()]
