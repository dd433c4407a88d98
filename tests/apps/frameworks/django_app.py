"""Paths as in asgi.py, by Django under ASGI, which knows no lifespan."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from subject import PIECES, RELEASE

HEADERS = {"X-Gen": RELEASE, "X-Pid": str(os.getpid())}

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="none")


async def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello\n", headers=HEADERS)


def slow(request: HttpRequest) -> HttpResponse:
    time.sleep(int(request.GET["ms"]) / 1000)
    return HttpResponse("hello\n", headers=HEADERS)


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[str]:
        for _ in range(PIECES):
            await asyncio.sleep(int(request.GET["ms"]) / 1000 / PIECES)
            yield "piece\n"

    return StreamingHttpResponse(pieces(), headers=HEADERS)


async def upload(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{len(request.body)}\n", headers=HEADERS)


urlpatterns = [path("", hello), path("slow", slow), path("stream", stream), path("upload", upload)]
app = get_asgi_application()
