"""`rmbus doctor`: what works on this machine, what does not, and what helps."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import attrs
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import rmbus
from rmbus.cli.failures import Code
from rmbus.cli.host import default_store
from rmbus.errors import RmbusError
from rmbus.host.levels import Level
from rmbus.host.probing import probe
from rmbus.runtime import landlock
from rmbus.transport import runfolder, security
from rmbus.transport.umbilical import memory_file

Status = Literal["ok", "limited", "broken"]
_MARKS: dict[Status, tuple[str, str]] = {"ok": ("ok", "green"), "limited": ("-", "yellow"), "broken": ("NO", "red")}
_TELLING = ("files", "network", "signals", "unix sockets", "user")
_ENCODERS = {"H.264": ("libx264", "libopenh264"), "AAC": ("aac", "libfdk_aac")}


@attrs.frozen
class Finding:
    """One thing that was tried.

    Attributes:
        name: what. status: `ok`; `limited`: rmbus works without it; `broken`: it does not.
        detail: what was found. remedy: what helps, where something does.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say what works on this machine, what does not, and what helps. Ends with 1 where rmbus cannot work."""
    findings = list(examine())
    if as_json:
        print(json.dumps([attrs.asdict(each) for each in findings], indent=2))
    else:
        _show(findings)
    if any(each.status == "broken" for each in findings):
        raise typer.Exit(Code.FAILED)


def examine() -> Iterator[Finding]:
    """Try everything, and yield what was found."""
    yield Finding("rmbus", "ok", f"{rmbus.__version__} in {Path(rmbus.__file__).parent}")
    yield Finding("Python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield _bubblewrap()
    yield from _levels()
    version = landlock.version()
    yield Finding("Landlock", "ok" if version else "limited", f"version {version}" if version else "not in this kernel")
    yield _tried("sealed memory", _sealed_memory)
    yield _tried("run folder", _run_folder)
    yield _tried("package store", _store)
    yield from _media()
    yield from _hosts()


def _show(findings: list[Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for each in findings:
        mark, colour = _MARKS[each.status]
        told = each.detail + (f"\n→ {each.remedy}" if each.remedy else "")
        table.add_row(Text(mark, style=colour), each.name, Text(told))
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def _tried(name: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", attempt())
    except (OSError, RmbusError) as error:
        return Finding(name, "broken", str(error))


def _bubblewrap() -> Finding:
    program = shutil.which("bwrap")
    if program is None:
        return Finding("bubblewrap", "limited", "not installed", "apt install bubblewrap")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    return Finding("bubblewrap", "ok", f"{said.stdout.strip() or said.stderr.strip()} ({program})")


def _levels() -> Iterator[Finding]:
    found = probe()
    for level in sorted(Level, reverse=True):
        name = f"level {level.word}"
        if level in found.details:
            in_force = found.details[level]
            told = "; ".join(f"{key}: {in_force[key]}" for key in _TELLING if key in in_force)
            yield Finding(name, "ok", told or "a plain process")
        else:
            reason, _, remedy = found.reasons[level].partition("; ")
            yield Finding(name, "limited", reason, remedy)


def _sealed_memory() -> str:
    os.close(memory_file("rmbus-doctor", b"sealed"))
    return "memfd with seals works"


def _run_folder() -> str:
    folder = runfolder.RunFolder()
    shown = f"{folder.path.parent}"
    folder.remove()
    return shown


def _store() -> str:
    folder = default_store()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written to")
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    free = shutil.disk_usage(folder).free
    return f"{folder}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB; {free / 1e9:.1f} GB free"


def _media() -> Iterator[Finding]:
    import av
    from av.codec import codecs_available

    libraries = ", ".join(f"{name} {'.'.join(map(str, number))}" for name, number in av.library_versions.items())
    yield Finding("FFmpeg", "ok", f"{av.ffmpeg_version_info} by PyAV {av.__version__} ({libraries})")
    for kind, encoders in _ENCODERS.items():
        have = [name for name in encoders if name in codecs_available and _encodes(name)]
        if have:
            yield Finding(f"{kind} encoder", "ok", ", ".join(have))
        else:
            yield Finding(f"{kind} encoder", "limited", "none", "pip install av: its wheels bring FFmpeg along")


def _encodes(name: str) -> bool:
    from av.codec.codec import Codec, UnknownCodecError

    try:
        return Codec(name, "w").is_encoder
    except UnknownCodecError:
        return False


def _hosts() -> Iterator[Finding]:
    try:
        known = security.connections()
    except RmbusError as error:
        yield Finding("hosts", "limited", str(error))
        return
    if not known:
        yield Finding("hosts", "ok", "none of yours is running")
    for each in known:
        yield Finding("host", "ok", f"{each.address} (process {each.pid})")
