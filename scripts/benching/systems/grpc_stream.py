"""gRPC: a stream from a server to its clients, by `grpc.aio`.

Documented API: `grpc.aio.server`, a generic handler with `unary_stream_rpc_method_handler`, `await
context.write(bytes)`; on the other side `channel.unary_stream(...)` and `async for`. Messages are bytes, so there is
no schema to pay for. Settings: a Unix socket, no limit of message size, frames of HTTP/2 as large as they may be, no
compression. The write is awaited, so that the stream's own flow control makes the source wait and nothing is lost; a
slow reader would hold up the others, so there is no such run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np

from benching.measured.payload import PROBE, STOP, number_of
from benching.measured.records import PROBE_EVERY_S, Reader, Source
from benching.measured.task import Task

METHOD = "/Frames/Read"
OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.http2.max_frame_size", 16_777_215),
    ("grpc.http2.lookahead_bytes", 67_108_864),
    ("grpc.so_reuseport", 0),
]


class Publishing(grpc.GenericRpcHandler):
    """The server's side of a topic: a stream for each reader."""

    def __init__(self, task: Task, topic: str) -> None:
        self._contexts: list[Any] = []
        self._over = asyncio.Event()
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(f"unix:{task.folder}/{topic}")

    def service(self, handler_call_details: Any) -> Any:
        """Serve the one method."""
        return grpc.unary_stream_rpc_method_handler(self._serve) if handler_call_details.method == METHOD else None

    async def _serve(self, _request: bytes, context: Any) -> None:
        self._contexts.append(context)
        await self._over.wait()

    async def start(self) -> None:
        """Listen."""
        await self._server.start()

    async def publish(self, data: bytes) -> None:
        """Write to every stream."""
        if len(self._contexts) == 1:
            await self._contexts[0].write(data)
        else:
            await asyncio.gather(*(context.write(data) for context in self._contexts))

    async def close(self) -> None:
        """Let the streams end."""
        self._over.set()
        await self._server.stop(5)


async def _incoming(task: Task, topic: str) -> AsyncIterator[bytes]:
    async with grpc.aio.insecure_channel(f"unix:{task.folder}/{topic}", options=OPTIONS) as channel:
        async for data in channel.unary_stream(METHOD)(b"", wait_for_ready=True):
            yield data


async def _be_source(task: Task) -> None:
    source, array = Source(task), np.zeros(task.size, np.uint8)
    publishing = Publishing(task, "hop0")
    await publishing.start()
    while source.probes():
        source.payload.render(array, PROBE)
        await publishing.publish(array.tobytes())
        await asyncio.sleep(PROBE_EVERY_S)
    async for number in source.pace().numbers_async():
        source.prepare(array, number)
        await publishing.publish(array.tobytes())
    source.payload.render(array, STOP)
    await publishing.publish(array.tobytes())
    await publishing.close()
    source.close()


async def _be_relay(task: Task, hop: int) -> None:
    publishing = Publishing(task, f"hop{hop + 1}")
    await publishing.start()
    async for data in _incoming(task, f"hop{hop}"):
        await publishing.publish(data)
        if number_of(np.frombuffer(data, np.uint8)) == STOP:
            break
    await publishing.close()


async def _be_reader(task: Task, number: int) -> None:
    reader = Reader(task, number)
    async for data in _incoming(task, f"hop{task.relays}"):
        if not reader.take(np.frombuffer(data, np.uint8)):
            break
    reader.close()


def main() -> None:
    """Be the process that the command line names."""
    task, role, number = Task.load(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
    roles = {"relay": lambda: _be_relay(task, number), "reader": lambda: _be_reader(task, number)}
    asyncio.run(roles[role]() if role in roles else _be_source(task))


if __name__ == "__main__":
    main()
