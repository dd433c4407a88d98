"""Complete, graceful binary upgrades for Gunicorn, by one line in its configuration file::

    from gunicorn_hot import on_starting

and one signal, SIGUSR2, to the master. See the README for what is promised.

The application may ask `draining` and `generation`, be told by `on_drain` or `wait_draining`, and delay its worker by
`hold_ready`. That is harmless under a stock gunicorn, and in a process that serves nobody.
"""

from __future__ import annotations

import os
from typing import Any

import gunicorn
from gunicorn.errors import ConfigError

from gunicorn_hot import inheritance, own_hook, settings
from gunicorn_hot.app import draining, generation, on_drain, wait_draining
from gunicorn_hot.holds import Hold, NotReady, hold_ready

__version__ = "0.1.0"
__all__ = ["Hold", "NotReady", "draining", "generation", "hold_ready", "on_drain", "on_starting", "wait_draining"]

_OLDEST_GUNICORN = (25, 3)


def on_starting(server: Any) -> None:
    """gunicorn's server hook: make this arbiter a hot one. A hook of your own may call it.

    Called by gunicorn, in the master, once, before there are sockets or workers. Raises RuntimeError, which gunicorn
    prints before it exits with 1, when a hot_* setting in the configuration file is wrong."""
    from gunicorn_hot.arbiter import adopt

    try:
        if gunicorn.version_info < _OLDEST_GUNICORN:
            oldest = ".".join(map(str, _OLDEST_GUNICORN))
            raise ConfigError(f"gunicorn_hot needs gunicorn {oldest} or later, this is {gunicorn.__version__}")
        settings.finish_reading(server.cfg)
        adopt(server)
    except BaseException as exc:
        if server.pidfile is not None:
            server.pidfile.unlink()
        if isinstance(exc, (ConfigError, OSError)):
            raise RuntimeError(str(exc)) from exc
        raise


if (_cfg := settings.add_to_the_one_being_read()) is not None:
    inheritance.claim(os.environ)
    own_hook.watch(_cfg, on_starting)
