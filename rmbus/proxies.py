"""Stand-ins for remote objects: the names of the class, and each of them a call, a read or a write at the far end."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from rmbus.handle import Handle
from rmbus.shipping.members import SPECIAL

_HANDLE: Final = "_rmbus_handle"


class Proxy:
    """A remote object. It has the names of the object's class, and no others."""

    __slots__ = (_HANDLE,)

    def __init__(self, handle: Handle) -> None:
        object.__setattr__(self, _HANDLE, handle)

    def __repr__(self) -> str:
        about = handle_of(self).about
        return f"<remote {about.entry.partition(':')[2]} on {about.host}, id {about.id}>"

    def __dir__(self) -> list[str]:
        return sorted(handle_of(self).about.names)

    def __getattr__(self, name: str) -> Any:
        handle = handle_of(self)
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"{handle.about.entry} has no {name!r} that could be reached from here")
        return handle.do("get", name)

    def __setattr__(self, name: str, value: object) -> None:
        handle_of(self).do("set", name, value)

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled: give its id to the other process, which calls bus.attach(id)")


def handle_of(proxy: object) -> Handle:
    """Return what a proxy asks through.

    Raises:
        TypeError: it is no proxy.
    """
    if not isinstance(proxy, Proxy):
        raise TypeError(f"{type(proxy).__qualname__} is no remote object: give what ship() or attach() returned")
    found: Handle = object.__getattribute__(proxy, _HANDLE)
    return found


class AwaitableProxy(Proxy):
    """A remote object all of whose names are awaited: `await proxy.method()`, `await proxy.attribute`."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"{handle_of(self).about.entry} has no {name!r} that could be reached from here")
        return handle_of(self).do_async("get", name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name!r} cannot be set here, since nothing could be awaited: use a method that sets it")


def make_proxy(handle: Handle, cls: type[Any] | None, *, is_awaited: bool = False) -> Any:
    """Return a proxy with the methods of a class, and their signatures and docstrings where it is known here."""
    make, base = (_awaited_method, AwaitableProxy) if is_awaited else (_method, Proxy)
    methods: dict[str, object] = {
        name: _told(make(name, kind), name, getattr(cls, name, None))
        for name, kind in handle.about.names.items()
        if kind != "value" and (not name.startswith("__") or name in SPECIAL)
    }
    made = type(handle.about.entry.rpartition(":")[2].rpartition(".")[2], (base,), {"__slots__": (), **methods})
    return made(handle)


def _told(method: Any, name: str, original: Any) -> Callable[..., Any]:
    """Give a method the name, signature and docstring of what it stands for."""
    if callable(original):
        functools.update_wrapper(method, original, updated=())
    method.__name__ = name
    found: Callable[..., Any] = method
    return found


def _awaited_method(name: str, kind: str) -> Callable[..., Any]:
    if kind in ("generator", "asyncgen"):

        async def items(self: Proxy, *args: Any, **named: Any) -> AsyncGenerator[Any]:
            async with aclosing(await handle_of(self).do_async("call", name, (args, named))) as found:
                async for item in found:
                    yield item

        return items

    async def called(self: Proxy, *args: Any, **named: Any) -> Any:
        return await handle_of(self).do_async("call", name, (args, named))

    return called


def _method(name: str, kind: str) -> Callable[..., Any]:
    if kind == "coroutine":

        async def awaited(self: Proxy, *args: Any, **named: Any) -> Any:
            return await handle_of(self).do_async("call", name, (args, named))

        return awaited
    if kind == "asyncgen":

        async def awaited_items(self: Proxy, *args: Any, **named: Any) -> AsyncGenerator[Any]:
            async with aclosing(await handle_of(self).do_async("call", name, (args, named))) as found:
                async for item in found:
                    yield item

        return awaited_items

    def called(self: Proxy, *args: Any, **named: Any) -> Any:
        return handle_of(self).do("call", name, (args, named))

    return called
