"""How a node's process gets its node: from a package, or, where it is the user's own, from the user's files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rmbus.errors import PackagingError
from rmbus.node import Node
from rmbus.protocol import messages
from rmbus.shipping.load import load
from rmbus.shipping.pickling import loads


def load_node(job: messages.Job, package: int | None, state: bytes) -> Node:
    """Return the node of a job, with its state set and its joined ports known.

    Args:
        job: what to be.
        package: the descriptor of the package with its code, or None where the user's own files are read.
        state: the pickled node.

    Raises:
        PackagingError, ProtocolError: see `rmbus.shipping.load`.
    """
    start = job.start
    if package is not None:
        work = Path(job.work if job.level == "trusted" else os.environ["TMPDIR"])
        _, node = load(package, work / "code", state)
    else:
        if job.level != "trusted":
            raise PackagingError("code without a package is taken by the user's own host only")
        sys.path[:] = start.sys_path
        os.chdir(start.folder)
        node = loads(state)
    if not isinstance(node, Node):
        raise PackagingError(f"what was shipped is no node but {type(node).__qualname__}")
    return node
