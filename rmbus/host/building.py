"""The builder: a process of its own that makes one environment from locked requirements, and then ends.

It reads the package with the lock from its standard input, and takes nothing but that list to the installer: files with
those hashes, wheels only. Installing them unpacks them; nothing of them is run, neither here nor by the installer,
which has seen the new environment's interpreter only while there was nothing in it.

Started as `python -m rmbus.host.building JSON`, by the host, which hears what it prints and reads its exit status.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

import attrs

from rmbus.errors import PackagingError, ProtocolError, RmbusError
from rmbus.host.shelf import QUOTA_BYTES, Shelf, make_read_only, size_of
from rmbus.protocol.lock import LOCK_PATH, decode_lock
from rmbus.runtime import confine
from rmbus.shipping import installer
from rmbus.shipping.content import MAX_ARCHIVE_BYTES, read_content

MANY_FILES: Final = 400
"""From so many files on they are compiled by several processes."""

FAILED: Final = 3
"""The exit status of a builder that has said why it failed."""


@attrs.frozen
class Task:
    """What a builder is to do.

    Attributes:
        root: the folder of environments.
        parent: the process that it ends with.
        key: of the environment; "": only collect what is not needed any more.
        lock: sha256 of the locked requirements.
        python: the program that the environment links to. version: of it, as in `3.11.7`.
        limit_s: how long the installer may take. quota_bytes: what all environments may take.
    """

    root: str
    parent: int
    key: str = ""
    lock: str = ""
    python: str = ""
    version: str = ""
    limit_s: float = 600.0
    quota_bytes: int = QUOTA_BYTES


def build(task: Task, package: int) -> None:
    """Make an environment, unless it is there.

    Raises:
        RmbusError: it cannot be made, in the installer's words where it was that.
    """
    shelf = Shelf(Path(task.root))
    with shelf.building(task.key) as part:
        if part is None:
            return
        lock = _lock_of(package, task.lock)
        count = len(decode_lock(lock))
        _say(f"installing {count} distribution{'s' if count != 1 else ''}")
        began = time.monotonic()
        modules = _make_venv(part, task)
        _install(part, lock, task)
        _compile(modules, task)
        size = size_of(part)
        if size > task.quota_bytes:
            raise PackagingError(
                f"the environment has {size:,} bytes, and all environments of this host may have {task.quota_bytes:,}"
            )
        make_read_only(part)
        _say(f"installed in {time.monotonic() - began:.1f} s, {size / 1e6:.1f} MB")


def _lock_of(package: int, wanted: str) -> bytes:
    size = os.fstat(package).st_size
    if not 0 < size <= MAX_ARCHIVE_BYTES:
        raise PackagingError(f"a package of {size} bytes has no locked requirements")
    _, files = read_content(memoryview(mmap.mmap(package, size, access=mmap.ACCESS_READ)))
    lock = bytes(files.get(LOCK_PATH, b""))
    if hashlib.sha256(lock).hexdigest() != wanted:
        raise PackagingError("the package's locked requirements are not those that were named to start with")
    return lock


def _make_venv(part: Path, task: Task) -> Path:
    """Make an empty virtual environment, which may be moved, and return its folder of modules.

    It is but a link and a file; so no interpreter has to be started for it.
    """
    minor = ".".join(task.version.split(".")[:2])
    modules = part / "lib" / f"python{minor}" / "site-packages"
    modules.mkdir(parents=True)
    (part / "lib64").symlink_to("lib")
    (part / "bin").mkdir()
    (part / "bin" / "python").symlink_to(task.python)
    for name in ("python3", f"python{minor}"):
        (part / "bin" / name).symlink_to("python")
    (part / "pyvenv.cfg").write_text(
        f"home = {os.path.dirname(task.python)}\n"
        "include-system-site-packages = false\n"
        f"version_info = {task.version}\n"
        "relocatable = true\n",
        encoding="utf-8",
    )
    return modules


def _install(part: Path, lock: bytes, task: Task) -> None:
    listed = part / "requirements.lock"
    listed.write_bytes(lock)
    status, _, said = installer.run(
        [
            *("pip", "install", "--python", str(part / "bin" / "python")),
            *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-compile-bytecode"),
            *("--requirement", str(listed)),
        ],
        timeout_s=task.limit_s,
    )
    if status != 0:
        raise PackagingError(f"the installer says:\n{installer.words(said)}")


def _compile(modules: Path, task: Task) -> None:
    """Compile the modules beforehand, as nobody can write beside them later; what cannot be compiled stays as it is.

    The interpreter is started without any folder of modules: a `.pth` file in one could have it run what it likes.
    """
    count = sum(name.endswith(".py") for _, _, names in os.walk(modules) for name in names)
    several = ["-j", "0"] if count > MANY_FILES else []
    subprocess.run(
        [task.python, "-I", "-S", "-m", "compileall", "-q", *several, str(modules)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=task.limit_s,
        check=False,
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> NoReturn:
    """Do what the argument says."""
    task = Task(**json.loads(sys.argv[1]))
    confine.die_with_parent(task.parent)
    try:
        if task.key:
            build(task, sys.stdin.fileno())
        else:
            Shelf(Path(task.root)).collect(quota_bytes=task.quota_bytes)
    except subprocess.TimeoutExpired:
        _say(f"the modules could not be compiled within {task.limit_s:g} s")
        sys.exit(FAILED)
    except (RmbusError, ProtocolError, OSError) as error:
        _say(str(error))
        sys.exit(FAILED)
    sys.exit(0)


if __name__ == "__main__":
    main()
