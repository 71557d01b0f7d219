"""The installer: the program `uv`, where it is, and where it gets distributions from: as pip does on this machine."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rmbus.errors import PackagingError

PROGRESS: Final = ("--no-progress", "--color", "never")
"""Plain lines, for whoever is not at a terminal."""

MAX_WORDS: Final = 20_000
"""Characters of what the installer said that an error carries, from the end."""

# Whoever has set one of these has told uv itself where distributions are, and pip's settings do not count.
_OWN_SETTINGS: Final = (
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX"),
    *("UV_CONFIG_FILE", "UV_OFFLINE"),
)
# These would lead to another interpreter than the one that is named, or run another's code.
_MISLEADING: Final = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_REQUIRE_HASHES")
_SEVERAL: Final = re.compile(r"[\s]+")


def find_installer() -> str:
    """Return the path of uv's program.

    Raises:
        PackagingError: it is not installed here.
    """
    try:
        from uv import find_uv_bin
    except ImportError as error:
        raise PackagingError("uv is not installed here, which makes environments: python -m pip install uv") from error
    try:
        return find_uv_bin()
    except FileNotFoundError as error:
        raise PackagingError(f"uv has no program here: {error}; python -m pip install --force-reinstall uv") from error


def run(
    arguments: Sequence[str], *, constrained: bool = False, stdin: str | None = None, timeout_s: float
) -> tuple[int, str, str]:
    """Run the installer to its end, in the folder `/`: no project's settings count that happen to lie around.

    Args:
        arguments: what it is told.
        constrained: whether the versions that pip's settings allow on this machine bind it too.
        stdin: what it reads.
        timeout_s: how long it may take.

    Returns:
        Its exit status, its output, and what it said.

    Raises:
        PackagingError: it is not here, cannot be started, or has not ended in time.
    """
    try:
        done = subprocess.run(
            [*_dying_with_parent(), find_installer(), *arguments, *PROGRESS],
            input=stdin,
            env=environment(os.environ, constrained=constrained),
            cwd="/",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PackagingError(f"the installer has not ended within {timeout_s:g} s; can the index be reached?") from None
    except OSError as error:
        raise PackagingError(f"the installer cannot be started: {error}") from error
    return done.returncode, done.stdout, done.stderr


def _dying_with_parent() -> list[str]:
    """Return a command that has a program end with the process that started it, where there is one."""
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "KILL", "--"] if found else []


def words(said: str) -> str:
    """Return what the installer said, for an error."""
    lines = [line.rstrip() for line in said[-MAX_WORDS:].splitlines()]
    return "\n".join(f"  {line}" for line in lines if line) or "  (it said nothing)"


def environment(given: Mapping[str, str], *, constrained: bool = False) -> dict[str, str]:
    """Return the environment variables of the installer: the given ones, and what pip's settings make of them."""
    wanted = {name: value for name, value in given.items() if name not in _MISLEADING}
    wanted["UV_PYTHON_DOWNLOADS"] = "never"  # the interpreters are those that are here
    pip = {} if any(given.get(name) for name in _OWN_SETTINGS) or _has_own_file(given) else pip_settings(given)
    for name, value in _translated(pip, constrained=constrained).items():
        wanted.setdefault(name, value)
    return wanted


def pip_settings(given: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings for an installation, from its files and its environment variables, by their long names."""
    found: dict[str, str] = {}
    for path in _pip_files(given):
        reader = configparser.RawConfigParser()
        try:
            reader.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise PackagingError(f"pip's settings in {path} cannot be read: {error}") from error
        for section in ("global", "install"):
            if reader.has_section(section):
                found |= {name.replace("_", "-").lower(): value for name, value in reader.items(section)}
    for name, value in given.items():
        if name.startswith("PIP_") and value:
            found[name.removeprefix("PIP_").replace("_", "-").lower()] = value
    return found


def _translated(pip: Mapping[str, str], *, constrained: bool) -> dict[str, str]:
    several = {name: _SEVERAL.sub(" ", value.strip()) for name, value in pip.items()}
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "no-index": "UV_NO_INDEX",
        "trusted-host": "UV_INSECURE_HOST",
        "cert": "SSL_CERT_FILE",
        "client-cert": "SSL_CLIENT_CERT",
        "proxy": "ALL_PROXY",
        **({"constraint": "UV_CONSTRAINT"} if constrained else {}),
    }
    made = {theirs: several[ours] for ours, theirs in names.items() if several.get(ours)}
    if "UV_FIND_LINKS" in made:
        made["UV_FIND_LINKS"] = made["UV_FIND_LINKS"].replace(" ", ",")
    if "UV_INDEX" in made:
        made["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip does: all indexes are one to it
    return made


def _pip_files(given: Mapping[str, str]) -> list[Path]:
    named = given.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(given.get("HOME") or Path.home())
    system = [Path(each) / "pip" for each in (given.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":") if each]
    own = Path(given.get("XDG_CONFIG_HOME") or home / ".config") / "pip"
    folders = [*reversed(system), Path("/etc"), home / ".pip", own, Path(sys.prefix)]
    return [*(folder / "pip.conf" for folder in folders), *([Path(named)] if named else [])]


def _has_own_file(given: Mapping[str, str]) -> bool:
    home = Path(given.get("HOME") or Path.home())
    own = Path(given.get("XDG_CONFIG_HOME") or home / ".config")
    system = [Path(each) for each in (given.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":") if each]
    return any((folder / "uv" / "uv.toml").exists() for folder in (own, *system, Path("/etc")))
