"""The frames, fed in every way in which a stream can deliver them."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from gunicorn_hot.protocol import MAGIC, MAX_LENGTH, VERSION, Decoder, Message, ProtocolError, encode

MESSAGES = [
    Message("hello", {"pid": 4711}),
    Message("progress", {"ready": 1, "total": 4}),
    Message("ready", {}),
    Message("failed", {"reason": "Anwendung nicht gefunden: „größe“ ☃"}),
    Message("drain", {"timeout": 30.0}),
    Message("committed", {"unused": [0, 2]}),
    # What a newer peer may say.
    Message("sing", {"key": {"of": ["C", None, True]}}),
    Message("ready", {"since": 3}),
]
EACH = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)


def bytes_of(message: Message) -> bytes:
    return encode(message.type, **message.fields)


def frame(body: bytes, magic: int = MAGIC, version: int = VERSION) -> bytes:
    """Draw a frame by hand, as the docstring of the module does."""
    return struct.pack(">BBI", magic, version, len(body)) + body


def object_of_length(length: int) -> bytes:
    """Return a JSON object with a type that is exactly this long."""
    empty = json.dumps({"type": "x", "reason": ""}, separators=(",", ":")).encode()
    return empty.replace(b'""', b'"' + b"a" * (length - len(empty)) + b'"')


def test_a_frame_is_as_it_was_drawn() -> None:
    assert encode("hello", pid=7) == b'H\x01\x00\x00\x00\x18{"type":"hello","pid":7}'


@EACH
def test_a_message_that_comes_whole(message: Message) -> None:
    decoder = Decoder()
    assert decoder.feed(bytes_of(message)) == [message]
    assert decoder.pending == 0


@EACH
def test_a_message_that_comes_byte_by_byte(message: Message) -> None:
    decoder = Decoder()
    *early, last = bytes_of(message)
    for count, byte in enumerate(early, 1):
        assert decoder.feed(bytes([byte])) == []
        assert decoder.pending == count
    assert decoder.feed(bytes([last])) == [message]
    assert decoder.pending == 0


@EACH
def test_a_message_that_comes_in_two_pieces_whatever_the_cut(message: Message) -> None:
    data = bytes_of(message)
    for cut in range(1, len(data)):
        decoder = Decoder()
        assert decoder.feed(data[:cut]) == []
        assert decoder.pending == cut
        assert decoder.feed(data[cut:]) == [message]
        assert decoder.pending == 0


def test_several_messages_that_come_at_once() -> None:
    decoder = Decoder()
    assert decoder.feed(b"".join(map(bytes_of, MESSAGES))) == MESSAGES
    assert decoder.pending == 0


@EACH
def test_a_message_with_the_beginning_of_the_next(message: Message) -> None:
    data, following = bytes_of(message), bytes_of(MESSAGES[0])
    for cut in range(len(following)):
        decoder = Decoder()
        assert decoder.feed(data + following[:cut]) == [message]
        assert decoder.pending == cut
        assert decoder.feed(following[cut:]) == [MESSAGES[0]]


def test_no_bytes_are_no_message() -> None:
    decoder = Decoder()
    assert decoder.feed(b"") == []
    assert decoder.pending == 0


def test_half_a_frame_is_no_message_and_no_error() -> None:
    decoder = Decoder()
    half = bytes_of(MESSAGES[0])[:-1]
    assert decoder.feed(half) == []
    assert decoder.pending == len(half)


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, b"h" * 6, b"\xff\x01\0\0\0\0"])
def test_garbage_is_refused_and_quoted(text: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        Decoder().feed(text)
    assert str(caught.value) == f"not a gunicorn_hot message: it begins with {text[:8]!r}"


def test_garbage_after_a_message_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not a gunicorn_hot message"):
        Decoder().feed(bytes_of(MESSAGES[0]) + b"Traceback (most recent call last):")


@pytest.mark.parametrize("version", [0, VERSION + 1, 255])
def test_another_version_is_refused_and_both_are_named(version: int) -> None:
    words = f"^the peer speaks protocol version {version}, this side speaks {VERSION}$"
    # The header is enough: what follows it may be of another form.
    with pytest.raises(ProtocolError, match=words):
        Decoder().feed(frame(b"{}", version=version)[:6])


def test_a_length_that_is_too_long_is_refused_before_it_is_waited_for() -> None:
    header = struct.pack(">BBI", MAGIC, VERSION, MAX_LENGTH + 1)
    words = f"^a message of {MAX_LENGTH + 1} bytes is longer than {MAX_LENGTH}$"
    with pytest.raises(ProtocolError, match=words):
        Decoder().feed(header)


def test_the_longest_message_passes() -> None:
    (message,) = Decoder().feed(frame(object_of_length(MAX_LENGTH)))
    data = bytes_of(message)
    assert len(data) == 6 + MAX_LENGTH
    assert Decoder().feed(data) == [message]


def test_a_message_that_is_too_long_is_not_encoded() -> None:
    (message,) = Decoder().feed(frame(object_of_length(MAX_LENGTH)))
    longer = {**message.fields, "reason": message.fields["reason"] + "a"}
    words = f"^message 'x' of {MAX_LENGTH + 1} bytes is longer than {MAX_LENGTH}$"
    with pytest.raises(ProtocolError, match=words):
        encode("x", **longer)


NOT_JSON = [b"", b"{", b"ready", b'{"type":"ready"} {}', b"\xff\xfe", b"{'type': 'ready'}"]
NO_MESSAGES = [[], ["type"], "ready", 7, None, {}, {"Type": "ready"}, {"type": None}, {"type": 7}]


@pytest.mark.parametrize("body", NOT_JSON)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^a message is not JSON: "):
        Decoder().feed(frame(body))


@pytest.mark.parametrize("value", NO_MESSAGES)
def test_json_that_is_no_object_with_a_type_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolError, match=r"^a message is not a JSON object with a type$"):
        Decoder().feed(frame(json.dumps(value).encode()))
