"""Where a host's nodes run: on its own interpreter, on another that it offers, or in an environment.

An environment is made for each lock once, by a builder (`rmbus.host.building`), while the host goes on; those who want
the same wait for the same builder, also if that is another host's. Prepared ones are used as they are.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from rmbus.errors import HostError, PackagingError, RmbusError, UnsupportedVersion
from rmbus.host import interpreters
from rmbus.host.builders import Builder
from rmbus.host.building import Task
from rmbus.host.interpreters import Interpreter
from rmbus.host.shelf import QUOTA_BYTES, Shelf
from rmbus.protocol import messages
from rmbus.runtime import confine, enter, visible
from rmbus.shipping.content import python_tag
from rmbus.transport.reactor import Reactor
from rmbus.transport.runfolder import RunFolder

BUILD_S: Final = 600.0
"""How long a builder may take; what it has to wait for another builder counts too."""

AT_ONCE: Final = 2
"""Builders that work at one time."""

MAX_WAITING: Final = 64
"""Environments that wait for a builder."""

_ABOUT: Final = (
    "import json, sys; v = sys.version_info; print(json.dumps([sys.implementation.name, *v[:2], sys.base_prefix]))"
)


class Lease:
    """Keeps an environment from being removed, until it is closed; `descriptor` is given away."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Let it be removed; safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@attrs.frozen
class Environment:
    """Where a process runs that is no spare.

    Attributes:
        python: the interpreter that is started.
        beside: a folder of modules behind its own, with rmbus in it; "" where rmbus is installed for it.
        readable: what a confined process reads there.
        about: what it is, in words.
        lease: keeps it, as long as the process lives.
    """

    python: str
    beside: str
    readable: tuple[str, ...]
    about: str
    lease: Lease | None = None

    def command(self, given: Sequence[str], *, confined: bool, allowed: confine.Allowed) -> list[str]:
        """Return the command line of a node's process.

        Args:
            given: the arguments of `rmbus.runtime.process`.
            confined: whether it confines itself; else a jail is around it, or nothing is.
            allowed: what it may do beside its level.
        """
        if not self.beside:
            return [self.python, "-I", "-m", "rmbus.runtime.process", *given]
        return enter.command(self.python, self.beside, given, confined=confined, parent=os.getpid(), allowed=allowed)

    def release(self) -> None:
        """Let it be removed, as far as this process was concerned."""
        if self.lease is not None:
            self.lease.close()


@attrs.frozen
class Waiter:
    """Who wants an environment.

    Attributes:
        ready: takes it, or None where the host's own interpreter will do.
        failed: takes why it cannot be had. lines: takes what the builder says.
    """

    ready: Callable[[Environment | None], None]
    failed: Callable[[RmbusError], None]
    lines: Callable[[list[str], int], None]


class Environments:
    """The interpreters and environments of a host.

    Args:
        root: the folder of the environments that are built.
        offered: further interpreters, by path. prepared: environments of the owner's, by name.
        build_s: how long a builder may take. quota_bytes: what all built environments may take.

    Raises:
        HostError: an interpreter or a prepared environment is none.
    """

    def __init__(
        self,
        reactor: Reactor,
        folder: RunFolder,
        root: Path,
        *,
        host: str,
        offered: Sequence[str] = (),
        prepared: Mapping[str, Path] | None = None,
        build_s: float = BUILD_S,
        quota_bytes: int = QUOTA_BYTES,
    ) -> None:
        self._reactor = reactor
        self._folder = folder
        self._root = root
        self._host = host
        self._build_s = build_s
        self._quota_bytes = quota_bytes
        self._own = python_tag()
        self._others: dict[str, Interpreter] = {}
        for path in offered:
            found = interpreters.describe(path)
            if found.tag != self._own:
                self._others.setdefault(found.tag, found)
        self._prepared = {name: self._look_at(name, path) for name, path in (prepared or {}).items()}
        self._working: dict[str, tuple[Builder, list[Waiter]]] = {}
        self._waiting: dict[str, tuple[Task, Interpreter, int, list[Waiter]]] = {}
        self._linked: set[str] = set()
        self._closed = False

    @functools.cached_property
    def _shelf(self) -> Shelf:
        """The folder of environments; most hosts never need it."""
        return Shelf(self._root)

    @property
    def tags(self) -> list[str]:
        """Implementation and version of each interpreter that is offered, the host's own first."""
        return [self._own, *self._others]

    def obtain(self, request: messages.Start, package: Callable[[], int], waiter: Waiter) -> None:
        """Have `waiter.ready` called with where a node may run, at once where that is there already.

        Args:
            request: the node's start.
            package: opens its package.
            waiter: who wants it.

        Raises:
            UnsupportedVersion: no interpreter that is offered fits. HostError: no environment of that name is
                prepared, or too many wait.
        """
        tag = python_tag(request.implementation, request.python)
        if tag not in self.tags:
            raise UnsupportedVersion(
                f"the code was made by {tag}, and the host {self._host} offers {', '.join(self.tags)}: run the script "
                "with one of those, or have the host offer yours: rmbus host --python PATH"
            )
        if request.env:
            waiter.ready(self._named(request.env, tag))
        elif request.lock:
            self._locked(request.lock, self._interpreter(tag), package, waiter)
        elif tag == self._own:
            waiter.ready(None)
        else:
            found = self._others[tag]
            waiter.ready(Environment(found.executable, "", found.paths, f"{found.tag}, as {found.executable}"))

    def collect(self) -> None:
        """Have a process remove what is not needed any more."""
        if self._root.is_dir() and any(self._root.iterdir()):
            self._begin("", self._task(""), -1, [])

    def close(self) -> None:
        """End the builders."""
        self._closed = True
        for _, _, package, _ in self._waiting.values():
            os.close(package)
        self._waiting.clear()
        for builder, _ in list(self._working.values()):
            builder.end()

    def _interpreter(self, tag: str) -> Interpreter:
        return interpreters.own() if tag == self._own else self._others[tag]

    def _named(self, name: str, tag: str) -> Environment:
        if name not in self._prepared:
            there = ", ".join(sorted(self._prepared)) or "none"
            raise HostError(
                f"the host {self._host} has no environment {name!r} (prepared are: {there}): its owner names one by "
                "`rmbus host --env NAME=PATH`",
                host=self._host,
            )
        found, its = self._prepared[name]
        if its != tag:
            raise UnsupportedVersion(
                f"the code was made by {tag}, and the environment {name!r} of the host {self._host} is of {its}"
            )
        interpreter = self._interpreter(tag)
        beside = self._beside(interpreter)
        return attrs.evolve(found, beside=beside, readable=(*found.readable, beside, *self._paths(interpreter)))

    def _look_at(self, name: str, path: Path) -> tuple[Environment, str]:
        """Return a prepared environment and its tag. Its interpreter is run, without its modules."""
        python = path.absolute() / "bin" / "python"
        try:
            done = subprocess.run(
                [str(python), "-I", "-S", "-c", _ABOUT], capture_output=True, text=True, timeout=30, check=True
            )
            implementation, major, minor, base = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise HostError(f"the environment {name}={path} has no working interpreter bin/python: {error}") from error
        tag = f"{implementation}-{major}.{minor}"
        if tag not in self.tags:
            raise HostError(
                f"the environment {name}={path} is of {tag}, and this host offers {', '.join(self.tags)}: name an "
                "interpreter of that version which has rmbus, by --python"
            )
        readable = visible.outermost([str(path.absolute()), os.path.realpath(path), base, *visible.chain(str(python))])
        return Environment(str(python), "", readable, f"the prepared environment {name}"), tag

    def _beside(self, interpreter: Interpreter) -> str:
        """Return the folder of modules with rmbus in it, of links to where an interpreter has them."""
        folder = self._folder.path / f"beside-{interpreter.tag}"
        if interpreter.tag not in self._linked:
            folder.mkdir(mode=0o700, exist_ok=True)
            for name, place in interpreter.links.items():
                if not (folder / name).is_symlink():
                    (folder / name).symlink_to(place)
            self._linked.add(interpreter.tag)
        return str(folder)

    # --- locked ------------------------------------------------------------------------------------------------------

    def _locked(self, lock: str, interpreter: Interpreter, package: Callable[[], int], waiter: Waiter) -> None:
        key = hashlib.sha256("\n".join((lock, interpreter.tag, interpreter.base)).encode()).hexdigest()[:40]
        ready = self._ready(key, interpreter)
        if ready is not None:
            waiter.ready(ready)
        elif key in self._working:
            self._working[key][1].append(waiter)
        elif key in self._waiting:
            self._waiting[key][3].append(waiter)
        elif len(self._waiting) >= MAX_WAITING:
            raise HostError(f"{MAX_WAITING} environments wait to be built on {self._host} already", host=self._host)
        else:
            task = attrs.evolve(self._task(key), lock=lock, python=interpreter.base, version=interpreter.version)
            self._waiting[key] = task, interpreter, package(), [waiter]
            self._next()

    def _ready(
        self, key: str, interpreter: Interpreter, about: str = "its environment starts cold"
    ) -> Environment | None:
        held = self._shelf.take(key)
        if held is None:
            return None
        folder = str(self._shelf.path(key))
        beside = self._beside(interpreter)
        readable = (folder, beside, *self._paths(interpreter))
        return Environment(f"{folder}/bin/python", beside, readable, about, Lease(held))

    def _paths(self, interpreter: Interpreter) -> tuple[str, ...]:
        """Return what is read of an interpreter; any process sees the host's own."""
        return () if interpreter.tag == self._own else interpreter.paths

    def _task(self, key: str) -> Task:
        return Task(str(self._root), os.getpid(), key, limit_s=self._build_s, quota_bytes=self._quota_bytes)

    def _next(self) -> None:
        while self._waiting and sum(bool(key) for key in self._working) < AT_ONCE:
            key = next(iter(self._waiting))
            task, interpreter, package, waiters = self._waiting.pop(key)
            self._begin(key, task, package, waiters, interpreter)

    def _begin(
        self, key: str, task: Task, package: int, waiters: list[Waiter], interpreter: Interpreter | None = None
    ) -> None:
        if key in self._working:
            return  # a collection goes on already

        def ended(problem: str) -> None:
            del self._working[key]
            if not self._closed:
                self._ended(key, interpreter, waiters, problem)

        def said(lines: list[str], suppressed: int) -> None:
            for waiter in waiters:
                waiter.lines([f"environment: {line}" for line in lines], suppressed)

        self._working[key] = Builder(self._reactor, self._folder, task, package, said, ended), waiters

    def _ended(self, key: str, interpreter: Interpreter | None, waiters: Iterable[Waiter], problem: str) -> None:
        self._next()
        if interpreter is None:
            return
        self.collect()  # what a builder that was killed has left, and what the new one is too much for
        for waiter in waiters:
            ready = None if problem else self._ready(key, interpreter, "its environment was built for this start")
            if ready is not None:
                waiter.ready(ready)
            else:
                why = problem or "it was removed again: the quota is too small"
                waiter.failed(PackagingError(f"the environment cannot be made on the host {self._host}: {why}"))
