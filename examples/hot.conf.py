# Configuration of the example application; app.py tells how to use it.

from gunicorn_hot import on_starting  # this one line is the whole adoption

bind = "127.0.0.1:8000"
worker_class = "gthread"
workers = 2
threads = 4
hot_drain_timeout = 30  # seconds that old workers have to finish what they hold

pidfile = "hot.pid"  # in the folder given by --chdir
errorlog = "-"  # the standard error
