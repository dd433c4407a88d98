from pathlib import Path

from gunicorn_hot import on_starting  # this one line is the whole adoption

HERE = Path(__file__).parent

wsgi_app = "shop.wsgi"
chdir = str((HERE / "current").resolve())  # the release itself: what is imported late comes from the same one
bind = "127.0.0.1:8000"
worker_class = "gthread"
workers = 2
threads = 8
pidfile = str(HERE / "hot.pid")

hot_check = "//localhost/healthz"  # requested from each new worker before it serves; the host is one of ALLOWED_HOSTS
hot_probation = 2  # seconds in which the old workers could take the service back
hot_drain_timeout = 30  # seconds that they have to finish what they hold
