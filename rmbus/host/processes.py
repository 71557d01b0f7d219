"""The processes that a host starts, each under its level: for nodes and objects, some kept ready; and the gateway."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs

from rmbus.host.endpoints import Endpoint, Pool
from rmbus.host.environments import Environment
from rmbus.host.gpus import VISIBLE
from rmbus.host.granting import Grant
from rmbus.host.jail import Grants, spawn_command
from rmbus.host.levels import Level
from rmbus.host.workers import MARK, Child
from rmbus.transport.reactor import Reactor
from rmbus.transport.runfolder import RunFolder


class Processes:
    """Starts them, in the reactor's thread.

    Args:
        folder: of this run; each process has its own in it. level: of nodes and objects.
        spares: so many are kept ready. refill: whether one that was taken is replaced.
        is_own: whether they are the user's own, of his script's host.
    """

    def __init__(
        self, reactor: Reactor, folder: RunFolder, level: Level, *, spares: int, refill: bool, is_own: bool
    ) -> None:
        self._reactor, self._folder, self._level, self._is_own = reactor, folder, level, is_own
        self._count = 0
        self._pool = Pool(reactor, self._spawn, spares, refill=refill)

    def endpoint_folder(self) -> Path:
        """Return a new folder for a process's sockets."""
        self._count += 1
        folder = self._folder.path / f"n{self._count}"
        folder.mkdir(mode=0o700)
        return folder

    def take(self, environment: Environment | None, grant: Grant) -> tuple[Endpoint, bool, str]:
        """Return a process to become a node, whether it was warm, and why it was not."""
        if environment is not None or grant.about:
            why = "; ".join(each for each in (environment and environment.about, grant.about) if each)
            return self._spawn(environment, grant), False, why
        grant.close()  # labels alone take nothing
        endpoint, warm = self._pool.take()
        why = "" if warm else "started for this run" if self._is_own else "no spare process was ready"
        return endpoint, warm, why

    def gateway(self) -> Endpoint:
        """Start the gateway."""
        folder = self.endpoint_folder()

        def launch(umbilical: int, output: int) -> tuple[subprocess.Popen[bytes], Level]:
            argv = [sys.executable, "-I", "-m", "rmbus.brokers.gateway", str(umbilical), str(os.getpid())]
            command = spawn_command(Level.TRUSTED, argv, node_dir=folder, work_dir=folder, fds=[umbilical])
            return command.start(stdout=output, stderr=output), Level.TRUSTED

        return Endpoint(Child(self._reactor, self._folder, launch, str(folder)), folder, folder)

    def close(self) -> None:
        """End those that are kept ready; the others are whose they have become."""
        self._pool.close()

    def _spawn(self, environment: Environment | None = None, grant: Grant | None = None) -> Endpoint:
        folder = self.endpoint_folder()
        work = self._folder.path / f"w{self._count}"
        work.mkdir(mode=0o700)
        level = self._level

        def launch(umbilical: int, output: int) -> tuple[subprocess.Popen[bytes], Level]:
            granted = Grants() if grant is None else grant.grants
            if environment is not None:
                granted = attrs.evolve(granted, readable=(*environment.readable, *granted.readable))
            allowed = granted.allowed()
            given = [str(umbilical), level.word, str(folder), str(os.getpid()), allowed.told()]
            argv = [sys.executable, "-I", "-m", "rmbus.runtime.process", *given]
            if environment is not None:
                allowed = attrs.evolve(allowed, readable=(str(folder), *allowed.readable))
                argv = environment.command(given, confined=level is Level.CONFINED, allowed=allowed)
            spare = {} if self._is_own else {VISIBLE: ""}
            env = {MARK: str(folder), **(spare if grant is None else grant.env)}
            command = spawn_command(
                level, argv, node_dir=folder, work_dir=work, fds=[umbilical], env=env, grants=granted
            )
            return command.start(stdout=output, stderr=output), level

        release = None if environment is None else environment.release
        child = Child(self._reactor, self._folder, launch, str(folder), None if grant is None else grant.close)
        if grant is not None:
            grant.heed(child.condemn)
        return Endpoint(child, folder, work, release)
