"""Servers that can be given a new release while they serve, each in its own way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bench.rivals import go, gunicorn, others, proxies, ruby
from bench.rivals.base import Phase, Rival
from bench.tables import Result

__all__ = ["RIVALS", "Phase", "Rival", "installed"]

#: By the name for `--rival`; ours first.
RIVALS: dict[str, type[Rival]] = {
    rival.name: rival
    for rival in (
        gunicorn.Hot, gunicorn.HotWithCheck, gunicorn.Hup, gunicorn.Usr2Sleep, gunicorn.Usr2ParentKill,
        others.UwsgiGraceful, others.UwsgiChain, others.Granian, others.Uvicorn,
        ruby.Unicorn, ruby.PumaPhased, ruby.PumaHot, go.Tableflip,
        proxies.Nginx, proxies.Haproxy,
    )
}


def installed(names: Iterable[str], result: Result) -> Iterator[tuple[type[Rival], str]]:
    """Return those that can be measured, with their versions; each other one gets a row that says why not."""
    for name in names:
        rival = RIVALS[name]
        version = rival.version()
        if version is None:
            result.add(rival.title, f"skipped: {rival.absent}", *["-"] * (len(result.columns) - 2))
        else:
            yield rival, version
