"""Which systems there are, what they need, and what each can do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Literal

import attrs

from benching.workloads import CALLING, RELAYS, Case

Start = Literal["whole", "roles"]

OURS: Final = "rmbus"


@attrs.frozen
class System:
    """A system under test, in one of its ways.

    Attributes:
        family: its environment, and what `--against` calls it.
        variant: the way, "" where there is one.
        module: of the package `systems`.
        start: `whole`: one process, which starts the others; `roles`: source, relays and readers one by one.
        requirements: the packages of its environment, exact; numpy is added. Empty: that of rmbus.
        groups: what it is measured in.
        loses: whether it lets a slow reader lose frames, so that the others are not held up.
    """

    family: str
    variant: str
    module: str
    start: Start = "whole"
    requirements: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("latency", "throughput", "fanout", "chain")
    loses: bool = True

    @property
    def name(self) -> str:
        """What rows call it."""
        return f"{self.family}-{self.variant}" if self.variant else self.family

    def can(self, case: Case) -> bool:
        """Whether it takes part in a case."""
        return case.group in self.groups and (self.loses or not case.sleep_s)

    def roles(self, case: Case) -> tuple[tuple[str, ...], ...]:
        """Return the arguments of the processes that are started, readers first."""
        if self.start == "whole":
            return ((),)
        relays = RELAYS if case.relays else 0
        readers = [("reader", str(number)) for number in range(case.readers)]
        return (*readers, *(("relay", str(number)) for number in reversed(range(relays))), ("source", "0"))


GRPC: Final = ("grpcio==1.85.1", "cloudpickle==3.1.2")

SYSTEMS: Final = (
    System(OURS, "copy", "rmbus_bus"),
    System(OURS, "loan", "rmbus_bus"),
    System(OURS, "copy-ipc", "rmbus_bus"),
    System(OURS, "loan-ipc", "rmbus_bus"),
    System("pyzmq", "copy", "zmq_sockets", "roles", ("pyzmq==27.3.0",)),
    System("pyzmq", "zerocopy", "zmq_sockets", "roles", ("pyzmq==27.3.0",)),
    System("pyzmq", "batch", "zmq_sockets", "roles", ("pyzmq==27.3.0",), ("throughput",)),
    System("mpshm", "", "mpshm", "whole", ("numpy",), loses=False),
    System("ezmsg", "", "ezmsg_graph", "whole", ("ezmsg==3.9.0",)),
    System("zenoh", "default", "zenoh_keys", "roles", ("eclipse-zenoh==1.10.2",)),
    System("zenoh", "shm", "zenoh_keys", "roles", ("eclipse-zenoh==1.10.2",)),
    System("iceoryx2", "copy", "iceoryx2_services", "roles", ("iceoryx2==0.10.0",)),
    System("iceoryx2", "loan", "iceoryx2_services", "roles", ("iceoryx2==0.10.0",)),
    System("dora", "copy", "dora_flow", "whole", ("dora-rs==1.1.0", "dora-rs-cli==1.1.0", "pyarrow==26.0.1")),
    System("dora", "loan", "dora_flow", "whole", ("dora-rs==1.1.0", "dora-rs-cli==1.1.0", "pyarrow==26.0.1")),
    System("grpc", "", "grpc_stream", "roles", GRPC, loses=False),
    System("ray", "", "ray_actors", "whole", ("ray==2.60.0",), loses=False),
    System(OURS, "object", "rmbus_objects", groups=CALLING),
    System("grpc", "cloudpickle", "grpc_calls", "whole", GRPC, CALLING),
    System("ray", "actor", "ray_objects", "whole", ("ray==2.60.0",), CALLING),
)

RIVALS: Final = tuple(dict.fromkeys(system.family for system in SYSTEMS if system.family != OURS))


def chosen_systems(against: Sequence[str], named: Collection[str]) -> tuple[System, ...]:
    """Return rmbus and the rivals of those families, of them those that are named, by family or in full.

    Raises:
        ValueError: there is none of such a name.
    """
    families = RIVALS if "all" in against else tuple(against)
    for family in families:
        if family not in RIVALS:
            raise ValueError(f"there is no rival {family!r}; there are {', '.join(RIVALS)}, and all")
    there = [system for system in SYSTEMS if system.family in (OURS, *families)]
    known = {name for system in there for name in (system.family, system.name)}
    for name in named:
        if name not in known:
            raise ValueError(f"there is no system {name!r} in this run; there are {', '.join(sorted(known))}")
    return tuple(system for system in there if not named or system.family in named or system.name in named)
