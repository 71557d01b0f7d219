"""Objects that come pickled in the frames themselves, and a method of theirs to call."""

from __future__ import annotations

import base64
import binascii
import inspect
from typing import Any, cast

from rmbus.media import Frame
from rmbus.node import Node
from rmbus.nodes.asking import asked
from rmbus.shipping import pickling


class SerializedClassExecutor(Node):
    """Takes a pickled object, calls a method of it, and gives the result and the object as it is then.

    In: `{"serialized_object": base64 of a cloudpickle, "method_name": ..., "method_args": [...], "method_kwargs":
    {...}}`; the last two may be left out. Out: `{"result", "updated_serialized_object", "processed_by"}`, where
    `processed_by` is the name of the node. The method may be async.

    Whoever made the pickle has code of his choice run here, before any method is called. So this node belongs on a
    host that confines it (`on=address`); in a process of your own, `trusted` or inline, only with objects of your own
    making, and never joined to a topic that others publish on. The pickle must come from the same minor version of
    Python, as bytecode in it fits no other.

    Errors are raised, and arrive as the same type where the node runs elsewhere: ValueError "Input must be a
    dictionary", "Input must contain 'serialized_object' and 'method_name' keys", or "Cannot deserialize the object:
    ..."; AttributeError where there is no such method; TypeError where it is not callable. What the method itself
    raises comes as it is: its type, its message, its traceback. A changed object that can no longer be pickled is a
    PackagingError that names the attribute.
    """

    async def process(self, frame: Frame) -> dict[str, Any]:
        """Return what the method returns, and the object as it is then."""
        request = asked(frame, ("serialized_object", "method_name"))
        args, kwargs = _arguments(request)
        target = _deserialized(request["serialized_object"])
        method = _method(target, request["method_name"])
        result = method(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        return {
            "result": result,
            "updated_serialized_object": base64.b64encode(pickling.dumps(target)).decode(),
            "processed_by": self.name,
        }


def _arguments(request: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    args, kwargs = request.get("method_args") or [], request.get("method_kwargs") or {}
    if not isinstance(args, list | tuple):
        raise ValueError(f"'method_args' must be a list, not {type(args).__name__}")
    if not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in cast("dict[object, Any]", kwargs)):
        raise ValueError("'method_kwargs' must be a dictionary whose keys are names")
    return list(cast("list[Any]", args)), cast("dict[str, Any]", kwargs)


def _deserialized(text: object) -> object:
    if not isinstance(text, str | bytes):
        raise ValueError(f"Cannot deserialize the object: it must be base64 text, not {type(text).__name__}")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"Cannot deserialize the object: it is no base64 ({error})") from error
    try:
        loaded: object = pickling.loads(data)
    except Exception as error:  # to load it runs its maker's code, which may raise anything
        raise ValueError(f"Cannot deserialize the object: {type(error).__name__}: {error}") from error
    return loaded


def _method(target: object, name: object) -> Any:
    if not isinstance(name, str):
        raise ValueError(f"'method_name' must be a string, not {type(name).__name__}")
    try:
        method: object = getattr(target, name)
    except AttributeError:
        if inspect.getattr_static(target, name, None) is not None:
            raise  # of a property's own code
        raise AttributeError(f"{type(target).__qualname__} has no method {name!r}") from None
    if not callable(method):
        raise TypeError(f"{name!r} of {type(target).__qualname__} is not callable: it is a {type(method).__name__}")
    return method
