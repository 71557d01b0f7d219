"""An environment for each rival, in a folder that is no part of the project, with exact versions."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".bench"
UV: Final = Path(sys.executable).with_name("uv")
TIME_S: Final = 900.0


class CannotInstall(Exception):
    """An environment cannot be made; the message says why, in one line."""


def python_of(family: str, requirements: Sequence[str]) -> Path:
    """Return the interpreter of a family's environment, which is made where it is not there or not as required.

    Raises:
        CannotInstall: the packages cannot be had.
    """
    if not requirements:
        return Path(sys.executable)
    wanted = [f"numpy=={version('numpy')}", *(each for each in requirements if each != "numpy")]
    return _made(family, wanted, wanted)


def python_for_plots() -> Path:
    """Return an interpreter that can draw: with the dependency group `bench` of pyproject.toml.

    Raises:
        CannotInstall: the packages cannot be had.
    """
    project = ROOT / "pyproject.toml"
    group: list[str] = tomllib.loads(project.read_text(encoding="utf-8"))["dependency-groups"]["bench"]
    return _made("plots", ["--group", f"{project}:bench"], group)


def _made(name: str, arguments: Sequence[str], made_for: Sequence[str]) -> Path:
    folder = CACHE / name
    python, stamp, told = folder / "bin" / "python", folder / ".made-for", "\n".join(made_for)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == told:
        return python
    print(f"bench: making the environment of {name} (once)", file=sys.stderr)
    CACHE.mkdir(exist_ok=True)
    _run([str(UV), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    _run([str(UV), "pip", "install", "--quiet", "--python", str(python), *arguments])
    stamp.write_text(told, encoding="utf-8")
    return python


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"nothing came within {TIME_S:g} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise CannotInstall(next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "failed"))
