"""`scripts/soak`: which run, how long, and where its report goes."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from soaking import kills, traffic, writing


def main() -> int:
    """Run, print the result, and write it down; the status is 0 only where all held and nothing was cut short."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="scripts/soak")
    kinds = parser.add_subparsers(dest="kind", required=True)
    killing = kinds.add_parser("kills", help="kill nodes at each point of a frame's way")
    killing.add_argument("--rounds", type=int, default=200, help="for each who may be killed at a point")
    killing.add_argument("--at-most", type=float, default=120.0, metavar="MINUTES", help="then it ends, incomplete")
    mixed = kinds.add_parser("traffic", help="run mixed traffic, and see whether everything stays flat")
    mixed.add_argument("--minutes", type=float, default=30.0)
    mixed.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="between two samples")
    for each in (killing, mixed):
        each.add_argument("--seed", type=int, default=1)
        each.add_argument("--write", type=Path, metavar="FILE", help="the report, in markdown")
    given = parser.parse_args()
    if given.kind == "kills":
        result = kills.run(rounds=given.rounds, seed=given.seed, at_most_s=given.at_most * 60)
    else:
        result = traffic.run(seconds=given.minutes * 60, interval_s=given.interval, seed=given.seed)
    print("\n" + result.text)
    if given.write is not None and result.is_whole:
        command = shlex.join(["scripts/soak", *sys.argv[1:]])
        writing.write(given.write, given.kind, f"{writing.circumstances(command, result.seconds)}\n\n{result.text}")
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
