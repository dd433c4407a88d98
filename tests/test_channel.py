"""A channel, from both ends; and what no child of a master may hold."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gunicorn_hot import private
from gunicorn_hot.channel import Channel
from gunicorn_hot.protocol import Message, encode


def raw() -> tuple[Channel, socket.socket]:
    """Return a channel, and a peer that may say anything."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    return Channel(ours), theirs


def test_messages_go_both_ways_and_nobody_waits() -> None:
    one, other = Channel.pair()
    assert one.receive() == []
    one.send("ready")
    one.send("failed", reason="why")
    other.send("open")
    assert other.receive() == [Message("ready", {}), Message("failed", {"reason": "why"})]
    assert one.receive() == [Message("open", {})]
    assert [os.get_inheritable(end.fileno()) for end in (one, other)] == [False, False]
    one.close()
    other.close()
    other.close()
    other.send("open")
    assert other.receive() == []


def test_an_end_is_told_after_the_last_words() -> None:
    one, other = Channel.pair()
    other.send("leaving")
    other.close()
    assert (one.receive(), one.closed, one.error) == ([Message("leaving", {})], True, None)


@pytest.mark.parametrize(
    ("data", "messages", "error"),
    [
        (b"GET / HT", [], "not a gunicorn_hot message: it begins with b'GET / HT'"),
        (encode("ready")[:-1], [], "it ended within a message"),
        (encode("open") + encode("ready")[:3], [Message("open", {})], "it ended within a message"),
    ],
    ids=["garbage", "half a message", "one and a half"],
)
def test_a_broken_stream_says_why(data: bytes, messages: list[Message], error: str) -> None:
    channel, peer = raw()
    peer.sendall(data)
    peer.close()
    assert (channel.receive(), channel.closed, channel.error) == (messages, True, error)
    assert channel.fileno() == -1


def test_half_a_message_is_waited_for() -> None:
    channel, peer = raw()
    frame = encode("ready")
    peer.sendall(frame[:4])
    assert (channel.receive(), channel.closed) == ([], False)
    peer.sendall(frame[4:])
    assert channel.receive() == [Message("ready", {})]
    peer.close()
    channel.close()


def test_garbage_ends_the_channel_for_the_peer_too() -> None:
    channel, peer = raw()
    peer.sendall(b"GET / HTTP/1.1\r\n")
    channel.receive()
    assert peer.recv(1) == b""
    peer.close()


def test_what_is_sent_to_a_dead_peer_is_lost_in_silence() -> None:
    channel, peer = raw()
    peer.close()
    channel.send("ready")
    assert (channel.closed, channel.error) == (False, None)
    assert (channel.receive(), channel.closed, channel.error) == ([], True, None)


def test_what_may_be_lost_never_fills_the_way_of_what_may_not() -> None:
    ours, theirs = Channel.pair()
    offered = 0
    while ours.offer("status", text="x" * 10_000):
        offered += 1
        assert offered < 1000
    ours.send("commit")
    assert not ours.closed
    messages = theirs.receive()
    assert [message.type for message in messages] == ["status"] * offered + ["commit"]
    assert ours.offer("status")
    theirs.close()
    ours.close()
    assert not ours.offer("status")


def test_a_peer_that_does_not_read_is_given_up() -> None:
    channel, peer = raw()
    for _ in range(100_000):
        channel.send("progress", ready=1, total=2)
        if channel.error:
            break
    assert not channel.closed
    assert (channel.receive(), channel.closed, channel.error) == ([], True, "the peer does not read")
    with pytest.raises(BrokenPipeError):
        peer.send(b"x")
    peer.close()


def test_a_message_that_went_only_in_part_is_the_last() -> None:
    channel, peer = raw()
    channel.send("failed", reason="x" * 900_000)
    assert (channel.receive(), channel.closed, channel.error) == ([], True, "the peer does not read")
    peer.close()


def test_an_inherited_end_is_inherited_no_further() -> None:
    one, other = Channel.pair()
    other.set_inheritable()
    fd = os.dup(other.fileno())
    os.set_inheritable(fd, True)
    assert os.get_inheritable(other.fileno())
    adopted = Channel.from_fd(fd)
    assert not os.get_inheritable(fd)
    one.send("open")
    assert adopted.receive() == [Message("open", {})]
    for end in (one, other, adopted):
        end.close()


@pytest.mark.parametrize("kind", ["file", "datagrams", "TCP", "closed"])
def test_what_is_no_channel_is_refused_and_left_as_it_was(kind: str, tmp_path: Path) -> None:
    if kind == "file":
        fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    elif kind == "datagrams":
        fd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()
    else:
        fd = socket.socket(socket.AF_INET, socket.SOCK_STREAM).detach()
    if kind == "closed":
        os.close(fd)
    with pytest.raises(OSError, match=r"another kind|Bad file|non-socket"):
        Channel.from_fd(fd)
    if kind != "closed":
        os.close(fd)


def test_a_child_has_no_copy_of_what_is_registered() -> None:
    one, other = Channel.pair()
    kept, its_peer = Channel.pair()
    private.register(one)
    fds = one.fileno(), kept.fileno()
    verdict, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        missing = "".join(str(int(not os.path.exists(f"/proc/self/fd/{fd}"))) for fd in fds)
        os.write(answer, f"{missing} {one.closed}".encode())
        # With the child alive, the end here must be an EOF there.
        os.close(answer)
        os._exit(0 if one.closed else 1)
    os.close(answer)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(verdict, 100) == b"10 True"
    os.close(verdict)
    assert not one.closed
    one.send("open")
    assert other.receive() == [Message("open", {})]
    private.forget(one)
    other.receive()
    assert (one.closed, other.closed) == (True, True)
    for end in (other, kept, its_peer):
        end.close()


def test_a_death_is_an_eof_though_a_child_lives_on() -> None:
    one, other = Channel.pair()
    private.register(one)
    ended, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        os.read(ended, 1)
        os._exit(0)
    os.close(ended)
    private.forget(one)
    # The child closes its copy on its own time, at the latest before its first step of Python.
    other._sock.settimeout(5)
    other.receive()
    assert other.closed
    os.close(end)
    os.waitpid(pid, 0)
