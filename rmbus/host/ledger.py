"""Who has what of a host's GPUs, CPUs and memory. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from attrs import field, frozen

from rmbus.host.gpus import Gpu
from rmbus.protocol.messages import Needs

_TINY: Final = 1e-9  # what sums of fractions may be off by


@frozen(eq=False)
class Share:
    """What one process has.

    Attributes:
        who: it, for people. gpus: its own alone. cpus: those that it runs on, of which it has claimed `cores`.
    """

    who: str
    gpus: tuple[Gpu, ...] = ()
    cpus: tuple[int, ...] = ()
    cores: float = 0.0
    memory_mb: int = 0


@frozen
class Ledger:
    """The account: what is offered, and the shares that are out.

    Attributes:
        gpus, cpus, memory_mb: what there is to give. labels: what the host is called.
    """

    gpus: Sequence[Gpu]
    cpus: Sequence[int]
    memory_mb: int
    labels: Sequence[str] = ()
    shares: list[Share] = field(factory=list[Share], init=False)

    @property
    def free_gpus(self) -> list[Gpu]:
        """Those that nobody has."""
        taken = {gpu.id for share in self.shares for gpu in share.gpus}
        return [gpu for gpu in self.gpus if gpu.id not in taken]

    @property
    def free_cores(self) -> float:
        """CPUs that nobody has claimed."""
        return len(self.cpus) - sum(share.cores for share in self.shares)

    @property
    def free_memory_mb(self) -> int:
        """Memory that nobody has claimed."""
        return self.memory_mb - sum(share.memory_mb for share in self.shares)

    def missing(self, needs: Needs) -> list[str]:
        """Return what cannot be given: what was asked for, what there is, and who has it."""
        told: list[str] = []
        if needs.gpus > len(free := self.free_gpus):
            holders = [f"{share.who} has {_list(gpu.id for gpu in share.gpus)}" for share in self.shares if share.gpus]
            told.append(_lack(_count(needs.gpus, "GPU"), len(free), len(self.gpus), holders))
        if needs.cpus > self.free_cores + _TINY:
            holders = [f"{share.who} has {share.cores:g}" for share in self.shares if share.cores]
            told.append(_lack(_count(needs.cpus, "CPU"), self.free_cores, len(self.cpus), holders))
        if needs.memory_mb > self.free_memory_mb:
            holders = [f"{share.who} has {share.memory_mb}" for share in self.shares if share.memory_mb]
            told.append(_lack(f"{needs.memory_mb} MB of memory", self.free_memory_mb, self.memory_mb, holders))
        for label in sorted(set(needs.labels) - set(self.labels)):
            told.append(f"the label {label!r} (it has {_list(map(repr, self.labels)) or 'none'})")
        return told

    def take(self, who: str, needs: Needs) -> Share:
        """Give a share; `missing` has said that there is nothing amiss."""
        count = math.ceil(needs.cpus)
        loads = dict.fromkeys(self.cpus, 0.0)
        for share in self.shares:
            for cpu in share.cpus:
                loads[cpu] += share.cores / len(share.cpus)
        cpus = sorted(sorted(self.cpus, key=lambda cpu: loads[cpu])[:count])
        share = Share(who, tuple(self.free_gpus[: needs.gpus]), tuple(cpus), needs.cpus, needs.memory_mb)
        self.shares.append(share)
        return share

    def give_back(self, share: Share) -> None:
        """Take a share back; harmless when that was done."""
        if share in self.shares:
            self.shares.remove(share)

    def told(self) -> dict[str, Any]:
        """Return what is offered and what of it is free, as `status` tells it."""
        offered = {"gpus": len(self.gpus), "cpus": len(self.cpus), "memory_mb": self.memory_mb}
        free = {"gpus": len(self.free_gpus), "cpus": self.free_cores, "memory_mb": self.free_memory_mb}
        return {"offers": {**offered, "labels": list(self.labels)}, "free": free}


def _lack(wanted: str, free: float, there: int, holders: list[str]) -> str:
    return (
        f"{wanted} ({free:g} of {there} {'is' if free == 1 else 'are'} free{': ' if holders else ''}{_list(holders)})"
    )


def _count(number: float, word: str) -> str:
    return f"{number:g} {word}{'' if number == 1 else 's'}"


def _list(words: Any) -> str:
    return ", ".join(words)
