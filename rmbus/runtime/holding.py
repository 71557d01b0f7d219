"""The process of a remote object: it loads the object, tells what can be reached of it, and serves it."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

from rmbus.protocol import messages
from rmbus.runtime.memory import NodeMemory
from rmbus.runtime.objects import ObjectLoop
from rmbus.runtime.process import SWITCH_S, Process
from rmbus.shipping.members import members


class Holder(Process):
    """The object in this process, between the umbilical and its callers."""

    def run(self, load: Callable[[], Any]) -> None:
        """Load the object, serve it until it is released, and tell the host how it went.

        Raises:
            whatever went wrong outside of calls, after the host has been told.
        """
        sys.setswitchinterval(SWITCH_S)
        memory = NodeMemory(self._say)
        loop = ObjectLoop(self._page, memory)
        try:
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(self._serve(load, loop, memory))
        except BaseException as error:  # the supervisor around user code: whatever it was, the caller is told
            self._failed(error, loop)
            raise
        loop.close()
        sys.stdout.flush()
        self._say(messages.NodeEvent(self._start.session, 0, "ended"))

    async def _serve(self, load: Callable[[], Any], loop: ObjectLoop, memory: NodeMemory) -> None:
        obj = load()
        await _hook(obj, "initialize")
        self._begin_to_listen(loop, memory)
        self._say(messages.Offers(members(obj)))
        self._say(messages.NodeEvent(self._start.session, 0, "ready"))
        await loop.serve(obj)
        await _hook(obj, "cleanup")

    def _takes(self, loop: Any, message: messages.Message) -> bool:
        """A call is cancelled at once, also while it runs."""
        if not isinstance(message, messages.Cancel):
            return False
        loop.cancel(message.caller, message.call)
        return True


async def _hook(obj: object, name: str) -> None:
    """Call what the user's class may have for the beginning or the end of its process."""
    hook: Any = getattr(cast("type[Any]", type(obj)), name, None)
    if callable(hook):
        value = hook(obj)
        if inspect.isawaitable(value):
            await value


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
