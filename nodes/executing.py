"""A process below the node's that executes code once: how it is started, spoken to, bounded, and ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Final, cast

import msgpack
from attrs import field, frozen

from rmbus import values
from rmbus.errors import ConfinementError, MalformedFrame, ProtocolError, TooLarge
from rmbus.nodes.handing import HEADER, message

START_S: Final = 30.0
"""So long a process may take until it is ready."""

SPARE_S: Final = 1.0
"""So much later than the node the kernel ends the process: where the node may not, or is gone."""

_CHUNK: Final = 65_536
_MAX_HEAD: Final = 256 << 10
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@frozen
class Limits:
    """What code may use.

    Attributes:
        time_s: seconds, by the clock.
        memory_bytes: address space of its process.
        output_bytes: of what it prints, so much is kept.
        result_bytes: of the answer, as it travels.
    """

    time_s: float
    memory_bytes: int
    output_bytes: int
    result_bytes: int


@frozen
class Outcome:
    """What came of the code.

    Attributes:
        result: what it left in `result`, where there was no error.
        error: type and message of its error, or why it was stopped.
        traceback: of its error.
        printed: what it printed.
    """

    result: object = None
    error: str | None = None
    traceback: str = ""
    printed: str = field(default="", kw_only=True)


class Executor:
    """A process that waits for code, executes it, and is gone. `close` it, also when it was never used."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept = bytearray()
        self._left_out = 0
        self._socket, theirs = socket.socketpair()
        program = [sys.executable, "-I", "-B", "-m", "rmbus.nodes.executed", str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                [*program, str(limits.time_s + SPARE_S), str(limits.memory_bytes)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **_ONE_THREAD},
                cwd="/",
                pass_fds=[theirs.fileno()],
            )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._is_silent = False
        self._is_ready = False
        self._is_over = False
        for source in (self._socket.fileno(), self._output.fileno()):
            os.set_blocking(source, False)

    def prepare(self) -> bool:
        """Wait until the process is ready; whether it is. One that waited for its work may have ended meanwhile.

        Raises:
            ConfinementError: it cannot be confined on this machine, or did not start in time.
        """
        if self._is_ready:
            return self._process.poll() is None
        try:
            head, _ = self._exchange(b"", time.monotonic() + START_S)
        except (EOFError, TimeoutError):
            return False
        if "refused" in head:
            raise ConfinementError(_text(head, "refused"))
        self._is_ready = True
        return True

    def run(self, about: dict[str, object], value: object) -> Outcome:
        """Have the process do its work, and end it.

        Args:
            about: what `rmbus.nodes.executed` is to know. value: the input of the code.

        Raises:
            FormatError: the value cannot travel. ConfinementError: the process could not be confined.
        """
        asked = message({**about, "largest": self._limits.result_bytes}, value)
        result, error, traceback = None, None, ""
        is_lost = False
        try:
            head, payload = self._exchange(asked, time.monotonic() + self._limits.time_s)
            if "refused" in head:
                raise ConfinementError(_text(head, "refused"))
            if head.get("error") is None:
                result = values.load(head.get("length"), payload)
            else:
                error, traceback = _text(head, "error"), _text(head, "traceback")
        except TimeoutError:
            error = f"TimeoutError: the code was stopped after {self._limits.time_s:g} s"
        except ProtocolError as broken:
            error = f"the answer of the code cannot be taken: {broken}"
        except EOFError:
            is_lost = True
        finally:
            self.close()
        if is_lost:
            error = f"the code has ended its process: {_end_of(self._process.returncode)}"
        return Outcome(result, error, traceback, printed=self.printed())

    def close(self) -> None:
        """End the process, now."""
        if self._is_over:
            return
        self._is_over = True
        self._socket.close()  # one that waits for work ends by this
        with contextlib.suppress(PermissionError):  # under Landlock before 6: then the kernel's timer ends it
            self._process.kill()
        self._process.wait()
        with contextlib.suppress(BlockingIOError):  # nobody is left who could print more
            while not self._is_silent:
                self._hear()
        self._output.close()

    def printed(self) -> str:
        """Return what the process has printed, as far as it is kept; before it is ready, why it does not become so."""
        text = self._kept.decode(errors="replace")
        return text if not self._left_out else f"{text}\n... and {self._left_out} bytes more"

    # --- talking -----------------------------------------------------------------------------------------------------

    def _exchange(self, outgoing: bytes, until: float) -> tuple[dict[str, Any], bytes]:
        """Send something, and return the next message of the process: its head, and its payload.

        Raises:
            EOFError: it has ended. TimeoutError: the time is over. TooLarge, MalformedFrame: it breaks the rules.
        """
        unsent, incoming = memoryview(outgoing), bytearray()
        with selectors.DefaultSelector() as selector:
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            selector.register(self._socket, both if unsent else selectors.EVENT_READ)
            if not self._is_silent:
                selector.register(self._output, selectors.EVENT_READ)
            while True:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                for key, events in selector.select(left):
                    if key.fileobj is self._output:
                        self._hear()
                        if self._is_silent:
                            selector.unregister(self._output)
                        continue
                    if events & selectors.EVENT_READ:
                        incoming += self._received()
                        found = self._parsed(incoming)
                        if found is not None:
                            return found
                    if events & selectors.EVENT_WRITE:
                        unsent = unsent[self._sent(unsent) :]
                        if not unsent:
                            selector.modify(self._socket, selectors.EVENT_READ)

    def _received(self) -> bytes:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return data

    def _sent(self, unsent: memoryview) -> int:
        try:
            return self._socket.send(unsent)
        except BlockingIOError:
            return 0
        except ConnectionError as error:
            raise EOFError from error

    def _parsed(self, incoming: bytearray) -> tuple[dict[str, Any], bytes] | None:
        """Return the message that has come, or None where some of it is missing."""
        if len(incoming) < HEADER.size:
            return None
        head_size, payload_size = HEADER.unpack_from(incoming)
        if head_size > _MAX_HEAD:
            raise TooLarge("the head of an answer", head_size, _MAX_HEAD)
        if payload_size > self._limits.result_bytes:
            raise TooLarge("the result of the code", payload_size, self._limits.result_bytes)
        end = HEADER.size + head_size + payload_size
        if len(incoming) < end:
            return None
        try:
            head: object = msgpack.unpackb(incoming[HEADER.size : HEADER.size + head_size])
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise MalformedFrame(f"the head of an answer is no msgpack: {error}") from error
        if not isinstance(head, dict):
            raise MalformedFrame("the head of an answer is no dictionary")
        return cast("dict[str, Any]", head), bytes(incoming[HEADER.size + head_size : end])

    def _hear(self) -> None:
        """Take in what was printed."""
        data = os.read(self._output.fileno(), _CHUNK)
        room = self._limits.output_bytes - len(self._kept)
        self._kept += data[:room]
        self._left_out += max(0, len(data) - room)
        self._is_silent = not data


def _text(head: dict[str, Any], key: str) -> str:
    text = head.get(key)
    if not isinstance(text, str):
        raise MalformedFrame(f"the {key} of an answer is no text")
    return text


def _end_of(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}" if -status in set(signal.Signals) else f"signal {-status}"
    return f"exit status {status}"
