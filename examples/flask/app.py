"""A small Flask application. Its release is what the file RELEASE beside it says when it is imported."""

from __future__ import annotations

import time
from pathlib import Path

from flask import Flask, Response, request, stream_with_context

import gunicorn_hot

RELEASE = Path(__file__).with_name("RELEASE").read_text().strip()
if RELEASE == "broken":
    raise RuntimeError("this release refuses to load")

app = Flask(__name__)


@app.after_request
def name_the_release(response: Response) -> Response:
    response.headers["X-Gen"] = RELEASE
    return response


@app.get("/")
def hello() -> str:
    return f"release {RELEASE}\n"


@app.post("/")
def count() -> str:
    return f"{len(request.get_data())} bytes\n"


@app.get("/healthz")
def healthz() -> str:
    """What `hot_check` requests from each new worker before it serves: ask here what a release cannot live without."""
    return "ok\n"


@app.get("/events")
def events() -> Response:
    """A stream that would last for an hour, and ends within a second when its worker is to leave."""

    @stream_with_context
    def lines():
        for second in range(3600):
            if gunicorn_hot.draining():
                return
            yield f"data: {second}\n\n"
            time.sleep(1)

    return Response(lines(), mimetype="text/event-stream")
