"""What the old master has left to this one: variables in the environment, and the descriptors that they name.

All of it is claimed while gunicorn reads the configuration file, as that imports this package. Only then is it out of
sight of an application that is preloaded, of its threads, and of the programs that it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import TypeVar

from gunicorn_hot import private
from gunicorn_hot.channel import Channel
from gunicorn_hot.held import Held

#: Whatever begins so is ours, also what a later version of this package has added.
PREFIX = "GUNICORN_HOT_"
#: Which descriptor is the new master's end of the channel.
CHANNEL_VARIABLE = PREFIX + "FD"
#: Which descriptor is its end of the channel to the process that has the service's pid, if that is another one.
HOLDER_VARIABLE = PREFIX + "HOLDER"
#: Set if this generation is only to show that it could serve.
CHECK_VARIABLE = PREFIX + "CHECK"
#: How many generations there have been, with this one.
GENERATION_VARIABLE = PREFIX + "GENERATION"
#: Where the service's status is written.
STATUS_VARIABLE = PREFIX + "STATUS"

_Resource = TypeVar("_Resource", bound=private.Closable)

#: Our variables, once they are claimed.
variables: dict[str, str] = {}
_channel: Channel | OSError | None = None
_held: Held | OSError | None = None


def claim(environ: MutableMapping[str, str]) -> None:
    """Take our variables out of `environ`, and the channel from every process forked or executed from now on.

    Without a predecessor they mean nothing, and are only taken away. May be called again."""
    global _channel, _held
    found = {name: environ.pop(name) for name in list(environ) if name.startswith(PREFIX)}
    if not found or "GUNICORN_PID" not in environ:
        return
    variables.update(found)
    _held = _adopt(found, HOLDER_VARIABLE, Held.inherited, "a holder")
    _channel = _adopt(found, CHANNEL_VARIABLE, Channel.from_fd, "a predecessor")


def _adopt(
    found: Mapping[str, str], name: str, adopt: Callable[[int], _Resource], whose: str
) -> _Resource | OSError | None:
    """Return what the variable names, closed in each child from now on, or why it is none."""
    value = found.get(name)
    if value is None:
        return None
    try:
        resource = adopt(int(value))
    except (OSError, ValueError) as exc:
        return OSError(f"{name}={value} is not the channel to {whose}: {exc}")
    private.register(resource)
    return resource


def channel() -> Channel | None:
    """Return the channel to the predecessor, or None if it left none.

    Raises OSError when the environment named one that is none."""
    if isinstance(_channel, OSError):
        raise _channel
    return _channel


def held() -> Held | None:
    """Return the channel to the process that has the service's pid, or None if no other process has it.

    Raises OSError when the environment named one that is none."""
    if isinstance(_held, OSError):
        raise _held
    return _held


def generation() -> int:
    """Return the number of this generation; the first one is 1."""
    value = variables.get(GENERATION_VARIABLE, "")
    return int(value) if value.isdecimal() else 1


def is_check() -> bool:
    """Whether this generation will be ended when it is ready, and must not serve before."""
    return CHECK_VARIABLE in variables


def is_ours(name: str) -> bool:
    """Whether an environment variable is meant for one generation alone: ours, gunicorn's, or systemd's."""
    return name.startswith(PREFIX) or name in ("GUNICORN_PID", "GUNICORN_FD", "LISTEN_PID", "LISTEN_FDS")
