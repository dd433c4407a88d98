"""Why a command ends without what was asked for. Each says so to the operator, and has an exit code."""

from __future__ import annotations

OK, FAILED, USAGE, TIME_OVER, NO_SERVICE, INTERRUPTED = 0, 1, 2, 3, 4, 130


class Trouble(Exception):
    """The text is for the operator."""

    code = FAILED


class Refused(Trouble):
    """The service will not do it; it serves on as before."""


class Misused(Trouble):
    """What was asked for makes no sense here."""

    code = USAGE


class Ambiguous(Misused):
    """Several services could be meant."""


class TimeOver(Trouble):
    """--timeout."""

    code = TIME_OVER


class Gone(Trouble):
    """There is no service, or none any more, or none that may be talked to."""

    code = NO_SERVICE
