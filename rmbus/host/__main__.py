"""Run a host: `python -m rmbus.host`, as scripts start their embedded one. For people there is `rmbus host`."""

from __future__ import annotations

import argparse
import json

import attrs

from rmbus.host.daemon import Host, Settings, on_signals
from rmbus.host.levels import Level
from rmbus.host.parent import announce, watch_parent
from rmbus.shipping.places import cache_folder
from rmbus.transport.security import Connection


def main() -> None:
    """Serve as the embedded host of the process that started this one."""
    parser = argparse.ArgumentParser(prog="rmbus.host")
    parser.add_argument("--embedded", action="store_true", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--spares", type=int, required=True)
    parser.add_argument("--announce", type=int, required=True)
    given = parser.parse_args()
    parent = watch_parent(given.parent)
    if parent is None:
        return

    def up(connection: Connection) -> None:
        if not announce(given.announce, json.dumps(attrs.asdict(connection))):
            host.end()

    environments = cache_folder() / "environments"
    settings = Settings(
        given.name,
        Level.TRUSTED,
        spares=given.spares,
        refill=False,
        embedded=True,
        environments=environments,
        caches=cache_folder() / "caches",
    )
    host = Host(settings, on_up=up)
    on_signals(host)
    host.reactor.add(parent, host.end)
    host.serve()


if __name__ == "__main__":
    main()
