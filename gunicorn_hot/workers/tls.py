"""TLS on a client's connection, without a wait for the client."""

from __future__ import annotations

import ssl
from typing import Any

from gunicorn.sock import ssl_context


def wrap(client: Any, cfg: Any) -> ssl.SSLSocket:
    """Make it a TLS connection whose handshake has yet to begin."""
    wrapped: ssl.SSLSocket = ssl_context(cfg).wrap_socket(
        client,
        server_side=True,
        suppress_ragged_eofs=cfg.suppress_ragged_eofs,
        do_handshake_on_connect=False,
    )
    return wrapped


def notify_end(client: ssl.SSLSocket) -> None:
    """Tell a TLS client that this is the end and no attack (RFC 9112 9.8); the socket must not be a blocking one.

    Does not wait for the client to say the same."""
    try:
        client.unwrap()
    except (OSError, ValueError):
        pass
