"""Servers that can be given a new release while they serve, each in its own way."""

from __future__ import annotations

from bench.rivals import go, gunicorn, others, proxies, ruby
from bench.rivals.base import Phase, Rival

__all__ = ["RIVALS", "Phase", "Rival"]

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
