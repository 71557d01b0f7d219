"""Which lanes this rmbus has: by sockets alone, or a fast one beside them."""

from __future__ import annotations

import inspect
from typing import Any

from rmbus import Session


def has_fast_lane() -> bool:
    """Whether a session can be told which lane to take."""
    return "fast" in inspect.signature(Session).parameters


def lane_options(variant: str) -> dict[str, Any]:
    """Return what tells a session to take a variant's lane; nothing where there is one lane only."""
    return {"fast": not variant.endswith("-ipc")} if has_fast_lane() else {}
