"""`gunicorn-hot`: what an operator types. It talks to a service through its status file alone.

`main` dispatches; `parser` has the options, `service` finds the service, `watching` and `following` wait for it,
`progress` and `show` put a status into words, `output` writes them.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from gunicorn_hot import __version__
from gunicorn_hot.cli import asking, output, parser, service, showing
from gunicorn_hot.cli.errors import INTERRUPTED, Trouble

_BROKEN_PIPE = 141  # as a shell says it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Raises SystemExit for --help, --version and wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        # An application may say what the operator's terminal has no letters for.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = parser.make_parser(__version__).parse_args(argv)
    if options.command == "demo":
        from gunicorn_hot.cli import demo

        return demo.run(options)
    out = output.choose(options.json)
    try:
        found = service.find(options.status_file, options.pid_file, options.pid)
        if options.command == "status":
            return showing.show_status(found, out)
        if options.command == "watch":
            return showing.watch(found, out)
        return asking.ask(options.command, found, options, out)
    except Trouble as exc:
        out.close()
        out.error(str(exc), exc.code)
        return exc.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more; the interpreter would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    finally:
        out.close()

