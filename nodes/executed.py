"""The process that executes code, once: `python -I -m rmbus.nodes.executed SOCKET PARENT SECONDS BYTES`.

It confines itself, says that it is ready, waits for the code, executes it, tells what came of it, and ends. What it
prints goes to its standard output.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import linecache
import os
import resource
import signal
import socket
import sys
import traceback
import types
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from rmbus.errors import ConfinementError, RmbusError
from rmbus.nodes.guard import check, guarded_builtins
from rmbus.nodes.handing import HEADER, message, value_of
from rmbus.runtime import alone
from rmbus.runtime.failures import last_bytes, sendable, text_of

SOURCE: Final = "<code>"
"""The file name of the code in its tracebacks."""

NO_RESULT: Final = "No result variable set"

MAX_TEXT: Final = 20_000
"""Bytes of an error, and of a traceback."""

MAX_NAME: Final = 1000
"""Bytes of what the type of an error is called."""


def execute(source: str, input_data: object, modules: Sequence[str], given: Sequence[str]) -> object:
    """Execute code, as the main module of this process, and return what it left in `result`.

    Args:
        source: the code. input_data: what it sees under that name.
        modules: what it may import. given: modules that it has under their names without an import.

    Raises:
        GuardError: it uses what the guard withholds. Whatever else the code raises.
    """
    linecache.cache[SOURCE] = (len(source), None, source.splitlines(keepends=True), SOURCE)
    tree = ast.parse(source, SOURCE)
    check(tree)
    main = types.ModuleType("__main__")
    vars(main).update({name: importlib.import_module(name) for name in given})
    vars(main).update(__builtins__=guarded_builtins(modules), input_data=input_data)
    sys.modules["__main__"] = main  # where classes of the code look for what surrounds them
    exec(compile(tree, SOURCE, "exec"), vars(main))
    return vars(main).get("result", NO_RESULT)


def told(error: BaseException) -> dict[str, str]:
    """Return what is told of an error of the code, its traceback from the code on."""
    text, trace = "MemoryError", ""  # of what cannot even be told
    with contextlib.suppress(MemoryError):  # what was told up to there is told
        text = _text(error)
        about = traceback.TracebackException.from_exception(error)
        while about.stack and about.stack[0].filename != SOURCE:
            del about.stack[0]
        trace = last_bytes(sendable("".join(about.format())), MAX_TEXT)
    return {"error": text, "traceback": trace}


def _text(error: BaseException) -> str:
    name = last_bytes(sendable(type(error).__qualname__), MAX_NAME)
    text = text_of(error, MAX_TEXT)
    if isinstance(error, MemoryError) and not text:
        text = f"more is needed than the {resource.getrlimit(resource.RLIMIT_AS)[0] >> 20} MiB that there are"
    return f"{name}: {last_bytes(text, MAX_TEXT - MAX_NAME - 2)}" if text else name


def _outcome(head: dict[str, Any], payload: memoryview, largest: int) -> bytes:
    """Execute what a message asks for, and return the answer."""
    try:
        result = execute(head["code"], value_of(head, payload), head["modules"], head["given"])
        answer = message({"error": None}, result)
        size = len(answer)
        if size > largest:
            del answer
            raise ValueError(f"the result takes {size} bytes; the limit is {largest}")
        return answer
    except RmbusError as error:
        return message({"error": f"{type(error).__name__}: the result: {error}"[:MAX_TEXT], "traceback": ""})
    except BaseException as error:  # noqa: BLE001 - the supervisor around the code
        return message(told(error))


def _received(connection: socket.socket, size: int) -> bytearray:
    """Return so many bytes; none where the other end has been closed."""
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = connection.recv_into(view[filled:])
        if not count:
            return bytearray()
        filled += count
    return data


def main() -> None:
    """Serve one errand."""
    number, parent, seconds, memory = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the script
    connection = socket.socket(fileno=int(number))
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]  # a TextIOWrapper
    try:
        alone.enclose(int(memory))
        connection.sendall(message({"ready": True}))
        header = _received(connection, HEADER.size)
        if not header:
            return  # nothing to do, and nobody left to do it for
        alone.seal(float(seconds), int(parent))
    except ConfinementError as error:
        connection.sendall(message({"refused": str(error)}))
        return
    head_size, payload_size = HEADER.unpack(header)
    try:
        body = memoryview(_received(connection, head_size + payload_size))
        head: dict[str, Any] = msgpack.unpackb(body[:head_size])
        answer = _outcome(head, body[head_size:], head["largest"])
    except MemoryError as error:
        answer = message(told(error))
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(answer)
    os._exit(0)


if __name__ == "__main__":
    main()
