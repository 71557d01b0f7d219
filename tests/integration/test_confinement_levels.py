"""The probe of the levels, where one of them is not to be had: what it says, and that a host then refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rmbus.errors import ConfinementError
from rmbus.host.jail import Level
from rmbus.host.probing import Probe, choose, probe

_FAULTS = Path(__file__).parents[1] / "faults"


@pytest.fixture(scope="module")
def found() -> Probe:
    return probe()


def _needs(found: Probe, level: Level) -> None:
    if level in found.reasons:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have {level.word}: {found.reasons[level]}")
        pytest.skip(f"no {level.word} here: {found.reasons[level]}")


_PROBE = """
import json, sys
from rmbus.host.probing import probe
found = probe(bwrap=sys.argv[1])
print(json.dumps([found.level.word, {level.word: reason for level, reason in found.reasons.items()}, found.explain()]))
"""


def _probed(*launcher: str, bwrap: str = "bwrap") -> tuple[str, dict[str, str], str]:
    argv = [*launcher, sys.executable, "-I", "-c", _PROBE, bwrap]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20)
    level, reasons, text = json.loads(done.stdout)
    return level, reasons, text


def test_without_user_namespaces_the_level_is_confined(found: Probe) -> None:
    """Where namespaces are forbidden, as in containers, the probe says so, and what helps."""
    _needs(found, Level.CONFINED)
    level, reasons, text = _probed(sys.executable, str(_FAULTS / "no_userns.py"))
    assert level == "confined"
    assert "user namespaces are forbidden" in reasons["jail"]
    assert "confinement: confined" in text


def test_a_missing_bubblewrap_is_named(found: Probe) -> None:
    """Where bubblewrap is missing, the remedy is its package."""
    _needs(found, Level.CONFINED)
    level, reasons, _ = _probed(bwrap="/nowhere/bwrap")
    assert level == "confined"
    assert "apt install bubblewrap" in reasons["jail"]


def test_a_namespace_limit_of_zero_is_named(found: Probe) -> None:
    """Where the sysctl forbids them, the sysctl is the remedy; it is set for one namespace, not for the machine."""
    _needs(found, Level.JAIL)
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    level, reasons, _ = _probed("unshare", "-Ur", "sh", "-c", script, "sh")
    assert level == "confined"
    assert "sysctl user.max_user_namespaces" in reasons["jail"]


def test_a_masked_proc_is_named(found: Probe) -> None:
    """Where /proc is masked, as in containers, no new one may be mounted, and that is the reason given."""
    _needs(found, Level.JAIL)
    script = 'mount --bind /dev/null /proc/keys && exec "$@"'
    level, reasons, _ = _probed("unshare", "-Urm", "sh", "-c", script, "sh")
    assert level == "confined"
    assert "masked" in reasons["jail"]


def test_choose_refuses_below_the_minimum() -> None:
    """A host never goes below its minimum, and its refusal carries the reasons."""
    offers = Probe(Level.CONFINED, {Level.JAIL: "because of the moon"}, {Level.CONFINED: {}, Level.TRUSTED: {}})
    assert choose(Level.TRUSTED, offers) is Level.CONFINED
    assert choose(Level.CONFINED, offers) is Level.CONFINED
    with pytest.raises(ConfinementError, match="because of the moon"):
        choose(Level.JAIL, offers)
