"""How a node's process gets its node: from a package, or, where it is the user's own, from the user's files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from rmbus.errors import PackagingError
from rmbus.node import Node
from rmbus.protocol import messages
from rmbus.shipping.load import load
from rmbus.shipping.pickling import loads


def load_node(job: messages.Job, package: int | None, state: bytes) -> Node:
    """Return the node of a job, see `load_object`.

    Raises:
        PackagingError: also where it is no node.
    """
    node = load_object(job, package, state)
    if not isinstance(node, Node):
        raise PackagingError(f"what was shipped is no node but {type(node).__qualname__}")
    return node


def load_object(job: messages.Job, package: int | None, state: bytes) -> Any:
    """Return the object of a job, with its state set.

    Args:
        job: what to be.
        package: the descriptor of the package with its code, or None where the user's own files are read.
        state: the pickled object.

    Raises:
        PackagingError, ProtocolError: see `rmbus.shipping.load`.
    """
    if package is not None:
        work = Path(job.work if job.level == "trusted" else os.environ["TMPDIR"])
        return load(package, work / "code", state)[1]
    if job.level != "trusted":
        raise PackagingError("code without a package is taken by the user's own host only")
    sys.path[:] = job.start.sys_path
    os.chdir(job.start.folder)
    return loads(state)
