from pathlib import Path

from gunicorn_hot import on_starting  # this one line is the whole adoption

wsgi_app = "app:app"
bind = "127.0.0.1:8000"
worker_class = "asgi"  # or "uvicorn_worker.UvicornWorker"
workers = 2
pidfile = str(Path(__file__).with_name("hot.pid"))

hot_check = "/healthz"  # requested from each new worker before it serves
hot_probation = 2  # seconds in which the old workers could take the service back
hot_drain_timeout = 30  # seconds that they have to finish what they hold
