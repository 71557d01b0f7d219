"""Which levels of confinement work on this machine: tried, not guessed, with the very command that nodes get."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from rmbus.errors import ConfinementError
from rmbus.host import remedies
from rmbus.host.jail import spawn_command
from rmbus.host.levels import Level

_TIMEOUT_S: Final = 15.0
_TRIAL: Final = """
import json, sys
from rmbus.runtime import confine
from rmbus.errors import ConfinementError
try:
    print(json.dumps(confine.apply(sys.argv[1], writable=sys.argv[2:])))
except ConfinementError as error:
    sys.exit(str(error))
"""


@frozen
class Probe:
    """What a machine offers.

    Attributes:
        level: the highest level that works.
        reasons: for each level that doesn't, why, and what helps.
        details: for each level that works, what is in force, by name, in words.
    """

    level: Level
    reasons: Mapping[Level, str]
    details: Mapping[Level, Mapping[str, str]]

    def explain(self) -> str:
        """Return the outcome in a few lines: the level, then a line for each that is not to be had."""
        lines = [f"confinement: {self.level.word}"]
        lines += [f"no {level.word}: {reason}" for level, reason in sorted(self.reasons.items(), reverse=True)]
        return "\n".join(lines)


def probe(*, bwrap: str = "bwrap", timeout_s: float = _TIMEOUT_S) -> Probe:
    """Start a process under each level, have it say what is in force, and return the outcome.

    Args:
        bwrap: bubblewrap's program.
        timeout_s: how long each trial may take.
    """
    reasons: dict[Level, str] = {}
    details: dict[Level, Mapping[str, str]] = {Level.TRUSTED: {"level": Level.TRUSTED.word, "core": "no dumps"}}
    for level in (Level.CONFINED, Level.JAIL):
        if level is Level.JAIL and shutil.which(bwrap) is None:
            reasons[level] = remedies.no_bubblewrap(bwrap)
            continue
        outcome = _trial(level, bwrap, timeout_s)
        if isinstance(outcome, str):
            reasons[level] = outcome
        else:
            details[level] = outcome
    return Probe(max(details), reasons, details)


def choose(minimum: Level, found: Probe) -> Level:
    """Return the highest level that works.

    Raises:
        ConfinementError: it is below the minimum; the message says why, and what helps.
    """
    if found.level >= minimum:
        return found.level
    reasons = "\n  ".join(f"no {level.word}: {found.reasons[level]}" for level in sorted(found.reasons, reverse=True))
    raise ConfinementError(
        f"this host must confine nodes at `{minimum.word}` at least, and this machine offers `{found.level.word}`:\n"
        f"  {reasons}\n"
        f"or allow less with a lower minimum level, if you trust all that is sent to this host"
    )


def _trial(level: Level, bwrap: str, timeout_s: float) -> Mapping[str, str] | str:
    """Return what is in force under a level, or why it cannot be had."""
    with tempfile.TemporaryDirectory(prefix="rmbus-probe-") as folder:
        node_dir, work_dir = Path(folder, "node"), Path(folder, "work")
        node_dir.mkdir()
        work_dir.mkdir()
        program = [sys.executable, "-I", "-c", _TRIAL, level.word]
        writable = [str(work_dir)] if level is Level.CONFINED else []
        command = spawn_command(level, [*program, *writable], node_dir=node_dir, work_dir=work_dir, bwrap=bwrap)
        try:
            process = command.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except ConfinementError as error:
            return str(error)
        with process:
            try:
                said, failed = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                return f"a trial did not end within {timeout_s:g} s"
    if process.returncode == 0:
        return dict[str, str](json.loads(said))
    text = failed.decode(errors="replace")
    if level is Level.JAIL:
        return remedies.why_no_jail(text, remedies.Machine.look(), bwrap=bwrap)
    return text.strip().splitlines()[-1] if text.strip() else f"a trial ended with code {process.returncode}"
