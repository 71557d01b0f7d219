"""gRPC and cloudpickle: a server unpickles objects and calls, and runs them in its own process, without confinement.

Documented API: `grpc.server`, a generic handler, `channel.unary_unary` and `unary_stream`; the blocking ones took less
time for a small call than `grpc.aio`. The modules go along by value (`cloudpickle.register_pickle_by_value`), each
time, so that there is nothing to cache. Settings: as in `grpc_stream`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]  # it ships no types
import grpc

from benching.measured.calling import play
from benching.measured.code import Code
from benching.measured.payload import Array
from benching.measured.task import Task
from benching.systems.grpc_stream import OPTIONS


class Serving(grpc.GenericRpcHandler):
    """Holds objects."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._methods = {
            "/Objects/Ship": grpc.unary_unary_rpc_method_handler(self._ship),
            "/Objects/Call": grpc.unary_unary_rpc_method_handler(self._call),
            "/Objects/Each": grpc.unary_stream_rpc_method_handler(self._each),
        }

    def service(self, handler_call_details: Any) -> Any:
        """Return the method's handler."""
        return self._methods.get(handler_call_details.method)

    def _ship(self, data: bytes, _context: Any) -> bytes:
        found = cloudpickle.loads(data)
        self._objects[id(found)] = found
        return str(id(found)).encode()

    def _call(self, data: bytes, _context: Any) -> bytes:
        key, name, args = cloudpickle.loads(data)
        if name == "release":
            del self._objects[key]
            return b""
        result: bytes = cloudpickle.dumps(getattr(self._objects[key], name)(*args))
        return result

    def _each(self, data: bytes, _context: Any) -> Iterator[bytes]:
        key, name, args = cloudpickle.loads(data)
        for item in getattr(self._objects[key], name)(*args):
            yield cloudpickle.dumps(item)


class Shipped:
    """An object in the server."""

    def __init__(self, client: Client, key: int) -> None:
        self._client, self._key = client, key

    def answer(self, array: Array) -> Array:
        """Call it."""
        found: Array = cloudpickle.loads(self._client.call(cloudpickle.dumps((self._key, "answer", (array,)))))
        return found

    def items(self, count: int) -> Iterator[Array]:
        """Have a stream."""
        return map(cloudpickle.loads, self._client.each(cloudpickle.dumps((self._key, "items", (count,)))))

    def release(self) -> None:
        """End it."""
        self._client.call(cloudpickle.dumps((self._key, "release", ())))


class Client:
    """A server, and a channel to it."""

    level = "none"

    def __init__(self, task_path: str, folder: str) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", __spec__.name, task_path, "serve"])
        self._channel = grpc.insecure_channel(f"unix:{folder}/objects", options=OPTIONS)
        grpc.channel_ready_future(self._channel).result(30)
        self._ship = self._channel.unary_unary("/Objects/Ship")
        self.call = self._channel.unary_unary("/Objects/Call")
        self.each = self._channel.unary_stream("/Objects/Each")

    def leave(self) -> None:
        """There is nothing to do."""

    def begin(self, code: Code, *, is_known: bool) -> None:
        """There is nothing to do."""

    def ship(self, code: Code, tool: Any) -> Shipped:
        """Ship an object with its modules."""
        for module in code.modules:
            cloudpickle.register_pickle_by_value(module)
        return Shipped(self, int(self._ship(cloudpickle.dumps(tool))))

    def close(self) -> None:
        """End all."""
        self._channel.close()
        self._process.terminate()
        self._process.wait()


def main() -> None:
    """Run a task, or be its server."""
    task = Task.load(Path(sys.argv[1]))
    if sys.argv[2:] == ["serve"]:
        server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
        server.add_generic_rpc_handlers((Serving(),))
        server.add_insecure_port(f"unix:{task.folder}/objects")
        server.start()
        time.sleep(3600)
    else:
        play(task, Client(sys.argv[1], task.folder))


if __name__ == "__main__":
    main()
