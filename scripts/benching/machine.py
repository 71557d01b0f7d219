"""Where and with what a campaign was run."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benching.catalogue import OURS, System


def facts(systems: Iterable[System], arguments: list[str]) -> dict[str, str]:
    """Return what a reader of the figures wants to know, by name."""
    versions = {OURS: version(OURS), "numpy": version("numpy")}
    for system in systems:
        versions |= dict(each.split("==") for each in system.requirements if "==" in each)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["scripts/bench", *arguments]),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "versions": ", ".join(f"{name} {each}" for name, each in versions.items()),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
