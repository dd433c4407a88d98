"""An application whose answers take 0 to 1000 ms."""

import random
import time
from pathlib import Path

RELEASE = Path(__file__).with_name("RELEASE").read_text().strip()


def app(environ, start_response):
    time.sleep(random.random())
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3"), ("X-Gen", RELEASE)])
    return [b"ok\n"]
