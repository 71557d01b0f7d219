"""What a node or an object asks of its host: found where it is declared, and said as the wire has it."""

from __future__ import annotations

from rmbus.node import Needs
from rmbus.protocol import messages


def declared_needs(obj: object) -> Needs | None:
    """Return what the class of an object declares as its `needs`, if it is a `Needs`."""
    found = getattr(type(obj), "needs", None)
    return found if isinstance(found, Needs) else None


def on_the_wire(needs: Needs | None) -> messages.Needs:
    """Return needs as a `start` says them.

    Raises:
        MalformedFrame: they are more than can be said.
    """
    if needs is None:
        return messages.Needs()
    return messages.Needs(
        gpus=needs.gpus,
        cpus=float(needs.cpus or 0),
        memory_mb=needs.memory_mb or 0,
        network=list(needs.network),
        files=[str(each) for each in needs.files],
        devices=list(needs.devices),
        cache=needs.cache or "",
        labels=list(needs.labels),
    )
