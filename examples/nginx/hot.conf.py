from pathlib import Path

from gunicorn_hot import on_starting  # this one line is the whole adoption

bind = "127.0.0.1:8000"
worker_class = "gthread"
workers = 2
threads = 64
worker_connections = 1000
pidfile = str(Path(__file__).with_name("hot.pid"))

keepalive = 10  # seconds; longer than nginx's keepalive_timeout of the upstream
hot_probation = 1
hot_drain_timeout = 30
