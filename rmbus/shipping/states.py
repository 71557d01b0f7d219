"""The state of an object as data: by its own `get_state` and `set_state`, or what pickling it would take."""

from __future__ import annotations

from typing import Any, cast


def content_of(obj: object) -> Any:
    """Return an object's state."""
    get = getattr(cast("type[Any]", type(obj)), "get_state", None)
    return get(obj) if callable(get) else obj.__getstate__()


def take_content(obj: object, state: Any) -> None:
    """Give an object a state that `content_of` has returned, instead of the one it has."""
    for name in ("set_state", "__setstate__"):
        take = getattr(cast("type[Any]", type(obj)), name, None)
        if callable(take):
            take(obj, state)
            return
    has_slots = issubclass(type(state), tuple)
    attributes: dict[str, Any] = (state[0] if has_slots else state) or {}
    slots: dict[str, Any] = (state[1] if has_slots else None) or {}
    if hasattr(obj, "__dict__"):
        obj.__dict__.clear()
        obj.__dict__.update(attributes)
    for name, value in slots.items():
        object.__setattr__(obj, name, value)
