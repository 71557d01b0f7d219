"""Run a host: `python -m rmbus.host`, as scripts start their embedded one. For people there is `rmbus host`."""

from __future__ import annotations

import argparse
import json
import os

import attrs

from rmbus.host.daemon import Host, Settings, on_signals
from rmbus.host.levels import Level
from rmbus.host.parent import watch_parent
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

    def announce(connection: Connection) -> None:
        with os.fdopen(given.announce, "w", encoding="utf-8") as file:
            file.write(json.dumps(attrs.asdict(connection)) + "\n")

    settings = Settings(given.name, Level.TRUSTED, spares=given.spares, refill=False, embedded=True)
    host = Host(settings, on_up=announce)
    on_signals(host)
    host.reactor.add(parent, host.end)
    host.serve()


if __name__ == "__main__":
    main()
