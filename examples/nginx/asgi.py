"""The same as wsgi.py, for ASGI workers."""

import asyncio
import random
from pathlib import Path

RELEASE = Path(__file__).with_name("RELEASE").read_text().strip()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await asyncio.sleep(random.random())
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"3"), (b"x-gen", RELEASE.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok\n"})
