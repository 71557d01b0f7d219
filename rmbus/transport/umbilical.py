"""The umbilical: one `SOCK_SEQPACKET` between a host and each of its nodes, for control messages and descriptors.

Descriptors travel here and nowhere else: from a host to its node, and between two hosts of one user that meet.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Sequence

from rmbus.errors import Broken, Closed, ProtocolError, TooLarge
from rmbus.protocol import messages
from rmbus.protocol.limits import MAX_DATAGRAM_BYTES

MAX_DESCRIPTORS = 64
NONE_LEFT = "this process may open no more files (see `ulimit -n`)"
_CREDENTIALS = struct.Struct("3i")


class Stripped(Broken):
    """A message came without its descriptors: this process can open no more.

    Attributes:
        message: what came.
    """

    def __init__(self, message: messages.Message) -> None:
        super().__init__(f"the message {message.tag!r} came without its descriptors: {NONE_LEFT}")
        self.message = message


class Umbilical:
    """One end of an umbilical.

    Attributes:
        peer_pid: on the host's end, the pid of the node as the kernel tells it (so it is right for a node in a pid
            namespace of its own), 0 until its first message has come.
    """

    def __init__(self, end: socket.socket, *, is_host: bool = False) -> None:
        self._socket = end
        self.peer_pid = 0
        if is_host:
            end.setblocking(False)  # a host waits for all of them, and for none
            end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    @classmethod
    def pair(cls) -> tuple[Umbilical, socket.socket]:
        """Return the host's end, and the bare socket that the node's process inherits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        return cls(ours, is_host=True), theirs

    def fileno(self) -> int:
        """Return the descriptor, for waiting."""
        return self._socket.fileno()

    def send(self, message: messages.Message, descriptors: Sequence[int] = (), number: int = 0) -> None:
        """Send a message; the descriptors stay the caller's own.

        Raises:
            TooLarge: the message is too large for a datagram. Broken: the other end is gone, or does not read.
        """
        if not self.try_send(message, descriptors, number):
            raise Broken("the umbilical is cut: its other end does not read")

    def try_send(self, message: messages.Message, descriptors: Sequence[int] = (), number: int = 0) -> bool:
        """Send a message if there is room for it; the descriptors stay the caller's own. A node waits for room.

        Raises:
            TooLarge: the message is too large for a datagram. Broken: the other end is gone.
        """
        data = messages.encode(message, number)
        if len(data) > MAX_DATAGRAM_BYTES:
            raise TooLarge(f"the {message.tag!r} message", len(data), MAX_DATAGRAM_BYTES)
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())] if descriptors else []
        )
        try:
            self._socket.sendmsg([data], ancillary)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Broken(f"the umbilical is cut: {error}") from error
        return True

    def receive(self) -> tuple[int, messages.Message, list[int]]:
        """Wait for the next message; a host does not wait.

        Returns:
            Its id, the message, and the descriptors that came with it, which are the caller's to close.

        Raises:
            Closed: the other end is gone. MalformedFrame: it sent what is no message. Stripped: descriptors were lost.
            BlockingIOError: on a host's end, nothing has come.
        """
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)
        try:
            data, ancillary, flags = self._read(room)
        except BlockingIOError:
            raise
        except OSError as error:
            raise Closed(f"the umbilical is cut: {error}") from error
        descriptors = self._unpack(ancillary)
        if not data:
            close_all(descriptors)
            raise Closed("the other end of the umbilical is gone")
        try:
            if flags & socket.MSG_TRUNC:
                raise Broken("a message on the umbilical was larger than any may be")
            number, message = messages.decode(data)
            if flags & socket.MSG_CTRUNC:
                raise Stripped(message)
        except (Broken, ProtocolError):
            close_all(descriptors)
            raise
        return number, message, descriptors

    def _read(self, room: int) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        while True:
            try:
                return self._socket.recvmsg(MAX_DATAGRAM_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)[:3]
            except ConnectionResetError:  # the other end has left something unread; what it said before is still here
                continue

    def finish(self) -> None:
        """Say nothing more: the other end hears that this one leaves, and this one hears on until that has left too."""
        with contextlib.suppress(OSError):  # the other end has gone first
            self._socket.shutdown(socket.SHUT_WR)

    def disown(self) -> None:
        """Close the descriptor alone, in a forked child: the connection is its parent's, and goes on."""
        descriptor = self._socket.detach()
        if descriptor >= 0:  # else it was closed before
            os.close(descriptor)

    def close(self) -> None:
        """Close this end. The other end sees it at once, also where a thread waits here for what comes."""
        with contextlib.suppress(OSError):  # it was cut before
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _unpack(self, ancillary: list[tuple[int, int, bytes]]) -> list[int]:
        found: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                found += numbers
            elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                self.peer_pid = _CREDENTIALS.unpack_from(data)[0] or self.peer_pid
        return found


def descriptor_at(descriptors: Sequence[int], place: int) -> int:
    """Return one of the descriptors that came with a message.

    Raises:
        OSError: it did not come.
    """
    if not 0 <= place < len(descriptors):
        raise OSError(errno.EMFILE, NONE_LEFT)
    return descriptors[place]


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        os.close(descriptor)


def memory_file(name: str, data: bytes | memoryview) -> int:
    """Return the descriptor of a sealed anonymous file that holds `data`."""
    import fcntl

    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def read_all(descriptor: int) -> bytes:
    """Return the whole content behind a descriptor, and close it."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()
