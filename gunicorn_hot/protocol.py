"""The channel's bytes: what two masters, and a master and its worker, say to each other.

One message is one frame::

    +------+---------+-------------------+========================+
    | 0x48 | version | length, 4 bytes,  | a JSON object, UTF-8,  |
    | "H"  | 1 byte  | big-endian        | {"type": ..., ...}     |
    +------+---------+-------------------+========================+

Nothing here does I/O. A ``type`` or a field that the reader does not know is no error: a newer peer may say more than
we understand, and what it adds must be safe to skip. Whatever could not be skipped needs a new ``VERSION``, and an
unknown version is an error that names both.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

MAGIC = 0x48
VERSION = 1
MAX_LENGTH = 1 << 20
_HEADER = struct.Struct(">BBI")


class ProtocolError(Exception):
    """The bytes are no frame of ours; nothing after them can be trusted."""


class Message(NamedTuple):
    """One decoded frame: its type, and its other fields as they came."""

    type: str
    fields: dict[str, Any]


def encode(type: str, **fields: Any) -> bytes:
    """Return the frame of one message; `fields` must be JSON values.

    Raises ProtocolError when the message is longer than MAX_LENGTH bytes."""
    body = json.dumps({"type": type, **fields}, separators=(",", ":")).encode()
    if len(body) > MAX_LENGTH:
        raise ProtocolError(f"message {type!r} of {len(body)} bytes is longer than {MAX_LENGTH}")
    return _HEADER.pack(MAGIC, VERSION, len(body)) + body


class Decoder:
    """Turns a stream of bytes, in pieces of any size, into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete yet: half a message, if the stream ends here."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are complete now.

        Raises ProtocolError on bytes that are no frame; the decoder is of no use afterwards."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _HEADER.size:
            magic, version, length = _HEADER.unpack_from(self._buffer)
            if magic != MAGIC:
                raise ProtocolError(f"not a gunicorn_hot message: it begins with {bytes(self._buffer[:8])!r}")
            if version != VERSION:
                raise ProtocolError(f"the peer speaks protocol version {version}, this side speaks {VERSION}")
            if length > MAX_LENGTH:
                raise ProtocolError(f"a message of {length} bytes is longer than {MAX_LENGTH}")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            messages.append(_parse(bytes(self._buffer[_HEADER.size : end])))
            del self._buffer[:end]
        return messages


def _parse(body: bytes) -> Message:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"a message is not JSON: {exc}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise ProtocolError("a message is not a JSON object with a type")
    return Message(fields.pop("type"), fields)
