"""The status in memory, for workers that run as another user (`user`), who cannot read its file.

A master shares it with the workers that it forks. They could write to it, so it is good for nothing but the metrics,
which they tell themselves; whoever acts on a status reads the file.
"""

from __future__ import annotations

import mmap
import struct
import zlib

_BYTES = 512 * 1024
#: Length and checksum of what follows: a reader may meet the writer.
_HEADER = struct.Struct("=II")
_TRIES = 10


class Mirror:
    def __init__(self) -> None:
        #: Only what is used of it takes memory.
        self._memory = mmap.mmap(-1, _BYTES)

    def write(self, text: str) -> None:
        """In the master: show this; what is too long is not shown."""
        data = text.encode()
        if _HEADER.size + len(data) > _BYTES:
            data = b""
        _HEADER.pack_into(self._memory, 0, len(data), zlib.crc32(data))
        self._memory[_HEADER.size:_HEADER.size + len(data)] = data

    def read(self) -> bytes:
        """In a worker: return what the master shows; empty if it shows nothing."""
        for _ in range(_TRIES):
            length, checksum = _HEADER.unpack_from(self._memory)
            data = self._memory[_HEADER.size:_HEADER.size + length]
            if zlib.crc32(data) == checksum:
                return data
        return b""
