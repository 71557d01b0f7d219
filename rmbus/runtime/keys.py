"""Key frames that are waited for: the node that could make one is told, and told again until it has come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rmbus.runtime.outputs import OutputPort
    from rmbus.transport.reactor import Reactor

KEY_S: Final = 1.0
"""A node is told so often, as long as no key frame has come."""


def latest_advice(port: str, form: str) -> str:
    """Say what to do where single packets of video would be left out."""
    return (
        f"output {port!r} sends {form} over an edge with `latest`, which would leave out packets that "
        "others need to be decoded: use drop_oldest(n) or reliable(n)"
    )


class KeyFrames:
    """What a node owes its outputs' readers.

    Args:
        reactor: the node's. tell: says to the node that a key frame of an output is wanted.
    """

    def __init__(self, reactor: Reactor, tell: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._tell = tell
        self._told: set[str] = set()

    def watch(self, port: OutputPort) -> None:
        """Tell the node when a reader of an output waits for a key frame."""
        port.on_key_wanted = partial(self._wanted, port)

    def _wanted(self, port: OutputPort) -> None:
        if port.name not in self._told:
            self._told.add(port.name)
            self._repeat(port)

    def _repeat(self, port: OutputPort) -> None:
        if not port.wants_key:
            self._told.discard(port.name)
            return
        self._reactor.call_later(KEY_S, partial(self._repeat, port))
        self._tell(port.name)
