"""`python -m gunicorn_hot`, the same as `gunicorn-hot`."""

import sys

from gunicorn_hot.cli import main

if __name__ == "__main__":
    sys.exit(main())
