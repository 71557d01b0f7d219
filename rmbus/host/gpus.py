"""The GPUs of a machine: NVIDIA's, as its driver tells of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_COMMON: Final = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
_FILE: Final = re.compile(r"nvidia(\d+)")
_FACT: Final = re.compile(r"^([^:]+?)\s*:\s*(.*)$", re.MULTILINE)


@frozen
class Gpu:
    """A GPU.

    Attributes:
        id: what `CUDA_VISIBLE_DEVICES` calls it: its UUID, or its number where the driver tells no more.
        model: what it is, in words.
        number: of its device file, as in `/dev/nvidia0`.
    """

    id: str
    model: str
    number: int


def find(root: Path = Path("/"), env: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use, in the order of their places on the bus.

    Args:
        root: where `proc` and `dev` are. env: the environment, whose `CUDA_VISIBLE_DEVICES` leaves some of them out.
    """
    there = {int(found[1]) for path in (root / "dev").glob("nvidia*") if (found := _FILE.fullmatch(path.name))}
    told = [_read(path) for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))]
    known = [gpu for gpu in told if gpu is not None and gpu.number in there]
    if not told:
        known = [Gpu(str(number), "unknown", number) for number in sorted(there)]
    return tuple(known) if VISIBLE not in env else _visible(known, env[VISIBLE])


def device_files(gpus: tuple[Gpu, ...], root: Path = Path("/")) -> tuple[tuple[str, str], ...]:
    """Return the device files that go with GPUs: where they are, and where a jail sees them; none for no GPU."""
    names = [*(f"nvidia{gpu.number}" for gpu in gpus), *(_COMMON if gpus else ())]
    return tuple((str(root / "dev" / name), f"/dev/{name}") for name in names if (root / "dev" / name).exists())


def _read(path: Path) -> Gpu | None:
    try:
        facts = dict(_FACT.findall(path.read_text(encoding="utf-8", errors="replace")))
        return Gpu(facts["GPU UUID"], facts.get("Model", "unknown"), int(facts["Device Minor"]))
    except (OSError, KeyError, ValueError):  # it tells less than is needed to give it to anybody
        return None


def _visible(gpus: list[Gpu], told: str) -> tuple[Gpu, ...]:
    """Return those of a list of numbers or UUIDs, or beginnings of them; as CUDA reads it, it ends at an error."""
    chosen: list[Gpu] = []
    for word in map(str.strip, told.split(",")):
        if word.isdecimal():
            found = gpus[int(word) : int(word) + 1]
        else:
            found = [gpu for gpu in gpus if word and gpu.id.startswith(word)]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return tuple(chosen)
