"""The state of an object as data: by its own `get_state` and `set_state`, or what pickling it would take."""

from __future__ import annotations

from typing import Any


def content_of(obj: Any) -> Any:
    """Return an object's state."""
    get = getattr(obj, "get_state", None)
    return get() if callable(get) else obj.__getstate__()


def take_content(obj: Any, state: Any) -> None:
    """Give an object a state that `content_of` has returned, instead of the one it has."""
    for name in ("set_state", "__setstate__"):
        take = getattr(obj, name, None)
        if callable(take):
            take(state)
            return
    parts: tuple[Any, ...] = state if isinstance(state, tuple) else (state, None)
    attributes: dict[str, Any] = parts[0] or {}
    slots: dict[str, Any] = parts[1] or {}
    if hasattr(obj, "__dict__"):
        obj.__dict__.clear()
        obj.__dict__.update(attributes)
    for name, value in slots.items():
        object.__setattr__(obj, name, value)
