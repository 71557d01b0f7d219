"""What the owner of a host allows, and what a process has been granted of it, until it has ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from rmbus.errors import HostError
from rmbus.host import gpus
from rmbus.host.bubblewrap import Grants
from rmbus.host.caches import PATH, Caches, Use
from rmbus.host.ledger import Ledger, Share
from rmbus.protocol import messages
from rmbus.protocol.needs import ANYWHERE, WRITABLE

_GPU_FACTS: Final = ("/proc/driver/nvidia", "/sys/devices", "/sys/bus/pci")


@attrs.frozen
class Offer:
    """What an owner lets nodes have.

    Attributes:
        gpus, cpus, memory_mb: how much of the machine's; None: all that it has.
        labels: what the host is called.
        files: files and folders that nodes may read, or, with `:rw` behind, write. devices: device files.
        network: whether they may have the machine's network.
        machine: where `proc` and `dev` are looked for.
    """

    gpus: int | None = None
    cpus: int | None = None
    memory_mb: int | None = None
    labels: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    network: bool = False
    machine: Path = Path("/")


def ledger_of(offer: Offer) -> Ledger:
    """Return the account of a host with an offer.

    Raises:
        HostError: the machine has less than is offered.
    """
    found, cpus = gpus.find(offer.machine), sorted(os.sched_getaffinity(0))
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1_000_000
    for what, offered, there in (
        ("GPUs", offer.gpus, len(found)),
        ("CPUs", offer.cpus, len(cpus)),
        ("MB of memory", offer.memory_mb, memory_mb),
    ):
        if offered is not None and offered > there:
            raise HostError(f"{offered} {what} are offered, and this machine has {there}")
    memory_mb = memory_mb if offer.memory_mb is None else offer.memory_mb
    return Ledger(found[: offer.gpus], cpus[: offer.cpus], memory_mb, sorted(set(offer.labels)))


class Grant:
    """What a process has, until it is closed.

    Attributes:
        grants: what its walls let through. env: variables that tell it what it has.
        about: what it has that a spare process has not, in words; "" where a spare will do.

    Args:
        sees_gpus: whether one that has asked for no GPU sees them all: the user's own does, as any program of theirs.
    """

    def __init__(
        self,
        ledger: Ledger,
        share: Share,
        grants: Grants,
        about: str,
        caches: Caches,
        use: Use | None = None,
        *,
        sees_gpus: bool,
    ) -> None:
        self._ledger, self._share = ledger, share
        self._caches, self._use = caches, use
        self.grants, self.about = grants, about
        self.env = {} if sees_gpus and not share.gpus else {gpus.VISIBLE: ",".join(gpu.id for gpu in share.gpus)}
        if share.gpus:
            self.env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        if share.cpus:
            self.env["OMP_NUM_THREADS"] = str(len(share.cpus))
        if use is not None:
            self.env[PATH] = use.path

    def heed(self, end: Callable[[str], None]) -> None:
        """Have the process ended, and told why, when it does not keep to what it has."""
        if self._use is not None:
            self._use.on_breach = end

    def close(self) -> None:
        """Give everything back; harmless when that was done."""
        self._ledger.give_back(self._share)
        if self._use is not None:
            self._caches.give_back(self._use)


class Granting:
    """Grants what is asked of a host.

    Args:
        offer, ledger: what there is. host: its name. caches: the folders that outlive nodes.
        is_own: whether its nodes are the user's own, who has all files, devices and addresses anyway.
    """

    def __init__(self, offer: Offer, ledger: Ledger, host: str, caches: Caches, *, is_own: bool) -> None:
        self._offer, self._host, self._caches, self._is_own = offer, host, caches, is_own
        self._ledger = ledger

    def grant(self, start: messages.Start) -> Grant:
        """Grant what a start asks for; all of it, or nothing.

        Raises:
            HostError: something is missing; all of that is named.
        """
        needs = start.needs
        missing = self._ledger.missing(needs)
        readable, writable, devices = self._allowed(needs, missing)
        if needs.cache and not self._caches.quota_mb:
            missing.append(f"the cache {needs.cache!r} (its owner keeps none; --cache-mb gives them room)")
        if missing:
            raise HostError(
                f"the host {self._host} cannot give {start.name} what it needs: {'; '.join(missing)}", host=self._host
            )
        use: Use | None = None
        if needs.cache:
            try:
                use = self._caches.take(needs.cache)
            except OSError as error:
                raise HostError(
                    f"the host {self._host} cannot make the cache {needs.cache!r} for {start.name}: {error}",
                    host=self._host,
                ) from error
        who = f"{start.name} ({start.session[:8]})"
        share = self._ledger.take(who, needs)
        grants = Grants(
            readable=(*readable, *(path for path in _GPU_FACTS if share.gpus and os.path.exists(path))),
            writable=writable if use is None else (*writable, use.path),
            devices=(*((path, path) for path in devices), *gpus.device_files(share.gpus, self._offer.machine)),
            network=bool(needs.network),
            cpus=share.cpus,
            memory_bytes=needs.memory_mb * 1_000_000,
            file_bytes=0 if use is None else self._caches.quota_mb * 1_000_000,
        )
        return Grant(self._ledger, share, grants, _about(needs), self._caches, use, sees_gpus=self._is_own)

    def status(self) -> dict[str, Any]:
        """Return what is offered, and what of it is free."""
        return {**self._ledger.told(), "caches": self._caches.status()}

    def _allowed(
        self, needs: messages.Needs, missing: list[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Return what is readable, writable and a device of all that was asked for; what is not allowed is told."""
        if self._is_own:
            return (), (), ()
        for each in needs.network:
            if each != ANYWHERE:
                missing.append(f"the network to {each!r} alone (only all of it, {ANYWHERE!r}, can be kept to)")
            elif not self._offer.network:
                missing.append("the network (its owner allows it by --allow-network)")
        readable: list[str] = []
        writable: list[str] = []
        for each in needs.files:
            path, writes = each.removesuffix(WRITABLE), each.endswith(WRITABLE)
            found = _covered(path, self._offer.files, writes=writes)
            if found is None:
                missing.append(f"the file {each!r} (its owner allows {_list(self._offer.files)}, by --allow-file)")
            elif not os.path.exists(found):
                missing.append(f"the file {each!r} (it is not there)")
            else:
                (writable if writes else readable).append(found)
        devices: list[str] = []
        for path in needs.devices:
            if os.path.basename(os.path.realpath(path)).startswith("nvidia"):
                missing.append(f"the device {path!r} (GPUs are asked for by gpus=)")
            elif path not in self._offer.devices:
                missing.append(
                    f"the device {path!r} (its owner allows {_list(self._offer.devices)}, by --allow-device)"
                )
            elif not os.path.exists(path):
                missing.append(f"the device {path!r} (it is not there)")
            else:
                devices.append(path)
        return tuple(readable), tuple(writable), tuple(devices)


def _covered(path: str, allowed: Sequence[str], *, writes: bool) -> str | None:
    """Return what is to be granted for a path that is asked for, or None where no entry allows it.

    Below a folder that nodes may write to, that folder itself is granted: a path in it could be led elsewhere by
    whoever writes there, between the look and the grant. Links that lead out of a folder lead to what is not allowed.
    """
    if not os.path.isabs(path):
        return None
    asked, real = os.path.normpath(path), os.path.realpath(path)
    for entry in sorted(allowed, key=lambda entry: (not entry.endswith(WRITABLE), len(entry))):
        folder, is_writable = entry.removesuffix(WRITABLE), entry.endswith(WRITABLE)
        if (is_writable or not writes) and _is_in(asked, folder) and _is_in(real, os.path.realpath(folder)):
            return folder if is_writable else asked
    return None


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _about(needs: messages.Needs) -> str:
    if needs.fits_spare:
        return ""
    asked = [
        name for name in ("gpus", "cpus", "memory_mb", "network", "files", "devices", "cache") if getattr(needs, name)
    ]
    return f"no spare process has what it needs: {', '.join(asked)}"


def _list(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"
