"""Where a node or an object is to run, and with which code: found, or made, before its process is started."""

from __future__ import annotations

import os
from collections.abc import Callable

import attrs

from rmbus.errors import HostError, RmbusError
from rmbus.host.control import Reply
from rmbus.host.endpoints import Endpoint
from rmbus.host.environments import Environment, Environments, Waiter
from rmbus.host.granting import Grant
from rmbus.protocol import messages
from rmbus.shipping.store import Hold
from rmbus.transport.umbilical import memory_file


@attrs.define
class Code:
    """A package for a process, and what keeps it in the store; nothing at all, where the user's own files are read."""

    descriptor: int | None = None
    hold: Hold | None = None

    def close(self) -> None:
        """It is not wanted."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        if self.hold is not None:
            self.hold.close()


@attrs.frozen
class Place:
    """A process that is to become something, and the code for it.

    Attributes:
        warm, reason: whether it was ready before it was asked for, and why not.
    """

    endpoint: Endpoint
    warm: bool
    reason: str
    code: Code

    def become(self, start: messages.Start, host: str, state: bytes, page: int, *, holds: bool = False) -> None:
        """Tell the process what to be: a node, or an object.

        Args:
            start: what was asked for. host: the host's name. state: the pickle. page: its counters, which are copied.
            holds: whether it is an object.
        """
        worker = self.endpoint.worker
        package, self.code.descriptor = self.code.descriptor, None
        given = [memory_file("rmbus-state", state), os.dup(page), *([] if package is None else [package])]
        job = messages.Job(
            start,
            host,
            worker.level.word,
            str(self.endpoint.work),
            package=-1 if package is None else 2,
            state=0,
            page=1,
            holds=holds,
        )
        worker.send(job, given)


class Starting:
    """Finds places.

    Args:
        environments: where code may run. host: the host's name.
        process: gives a process in an environment, or on the host's own interpreter, whether it was warm, and why not;
            it takes the grant over, once it returns.
        grant: grants what a start asks for.
        open_package: opens a package for a builder.
    """

    def __init__(
        self,
        environments: Environments,
        process: Callable[[Environment | None, Grant], tuple[Endpoint, bool, str]],
        grant: Callable[[messages.Start], Grant],
        open_package: Callable[[str], int],
        host: str,
    ) -> None:
        self._environments = environments
        self._process = process
        self._grant = grant
        self._waiting: dict[Grant, Callable[[], bool]] = {}
        self._open_package = open_package
        self._host = host

    def find(
        self,
        start: messages.Start,
        code: Code,
        reply: Reply,
        go_on: Callable[[Place], None],
        *,
        is_wanted: Callable[[], bool],
        tell: Callable[[messages.Message], None],
    ) -> None:
        """Go on with a place, at once if there is one; its environment may have to be made first, which takes a while.

        Args:
            start: what is to be started. code: the code for it. reply: takes a refusal that comes late.
            is_wanted: whether somebody still waits for it. tell: takes what the making prints.

        Raises:
            RmbusError: there is no such place. OSError: its process cannot be started.
        """
        is_now = True
        for each in [each for each, wanted in self._waiting.items() if not wanted()]:
            del self._waiting[each]  # its environment is still being made, for nobody
            each.close()
        try:
            grant = self._grant(start)
        except BaseException:
            code.close()
            raise
        self._waiting[grant] = is_wanted

        def ready(environment: Environment | None) -> None:
            endpoint: Endpoint | None = None
            try:
                if not is_wanted():
                    raise HostError(f"{start.name} was given up before it was started", host=self._host)
                endpoint, warm, reason = self._process(environment, grant)
                self._waiting.pop(grant, None)
                go_on(Place(endpoint, warm, reason, code))
            except (RmbusError, OSError) as error:
                if endpoint is not None:
                    endpoint.worker.kill()  # what it has is given back when it has ended
                    endpoint.remove()
                elif environment is not None:
                    environment.release()
                if is_now:
                    raise
                failed(error)

        def failed(error: Exception) -> None:
            if self._waiting.pop(grant, None) is not None:
                grant.close()
            code.close()
            kind = type(error).__name__ if isinstance(error, RmbusError) else "HostError"
            reply(messages.Refused(kind, str(error)))

        def said(lines: list[str], suppressed: int) -> None:
            if is_wanted():
                tell(messages.Log(start.session, start.node, lines, suppressed))

        try:
            self._environments.obtain(start, lambda: self._open_package(start.address), Waiter(ready, failed, said))
        except BaseException:
            if self._waiting.pop(grant, None) is not None:
                grant.close()
            code.close()
            raise
        is_now = False
