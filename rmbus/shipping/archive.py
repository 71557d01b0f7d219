"""The archive of a package: a zip with one form only, so that the same content is the same bytes on any machine.

Members are stored, not compressed, in the order of their names, with fixed times and permissions; any zip tool opens
one. The reader takes nothing but this form: no compression, links, comments, extra fields, overlaps, or bytes between
members, so what it passes is exactly what a writer would have made.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from rmbus.errors import MalformedFrame, TooLarge
from rmbus.protocol.manifest import MAX_FILES, MAX_PATH_BYTES

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")

_VERSION: Final = 20
_MADE_BY: Final = 3 << 8 | _VERSION  # 3: the permissions below are Unix's
_UTF8: Final = 0x800
_DATE: Final = 1 << 5 | 1  # 1980-01-01, the first day a zip can name
_MODE: Final = 0o100644 << 16
MAX_NAME_BYTES: Final = MAX_PATH_BYTES + 16


def write_archive(members: Mapping[str, bytes]) -> bytes:
    """Return the archive of these members, sorted by name."""
    body, directory = bytearray(), bytearray()
    for name in sorted(members):
        data, encoded = members[name], name.encode()
        crc = zlib.crc32(data)
        directory += _central(encoded, crc, len(data), len(body)) + encoded
        body += _local(encoded, crc, len(data)) + encoded + data
    return bytes(body + directory + _end(len(members), len(directory), len(body)))


def read_archive(data: memoryview) -> dict[str, memoryview]:
    """Return the members of an archive by name, as views of its bytes.

    Raises:
        MalformedFrame: the bytes are no archive in the form that `write_archive` makes.
        TooLarge: there are more members than a package may have.
    """
    members: dict[str, memoryview] = {}
    expected, last = 0, b""
    directory_start = _directory_start(data)
    for name, crc, size, offset in _entries(data, directory_start):
        if name <= last or offset != expected:
            raise _refused("its members are not sorted and side by side")
        start = offset + _LOCAL.size + len(name)
        expected, last = start + size, name
        if expected > directory_start or bytes(data[offset:start]) != _local(name, crc, size) + name:
            raise _refused("a member's two headers differ")
        view = data[start:expected]
        if zlib.crc32(view) != crc:
            raise _refused("a member's checksum is wrong; it was damaged on the way")
        members[_decode(name)] = view
    if expected != directory_start:
        raise _refused("it has bytes that belong to no member")
    return members


def _directory_start(data: memoryview) -> int:
    if len(data) < _END.size:
        raise _refused("it is too short")
    fields = _END.unpack(data[-_END.size :])
    count, size, start = int(fields[4]), int(fields[5]), int(fields[6])
    if bytes(data[-_END.size :]) != _end(count, size, start) or start + size + _END.size != len(data):
        raise _refused("its end record is not the plain one")
    if count > MAX_FILES + 1:
        raise TooLarge("the list of an archive's members", count, MAX_FILES + 1)
    if size > count * (_CENTRAL.size + MAX_NAME_BYTES):
        raise _refused("its directory is longer than its members need")
    return start


def _entries(data: memoryview, start: int) -> Iterator[tuple[bytes, int, int, int]]:
    count = int(_END.unpack(data[-_END.size :])[4])
    position, end = start, len(data) - _END.size
    for _ in range(count):
        if position + _CENTRAL.size > end:
            raise _refused("its directory is cut off")
        header = bytes(data[position : position + _CENTRAL.size])
        fields = _CENTRAL.unpack(header)
        crc, size, length, offset = int(fields[7]), int(fields[8]), int(fields[10]), int(fields[16])
        position += _CENTRAL.size + length
        name = bytes(data[position - length : position])
        if position > end or header != _central(name, crc, size, offset):
            raise _refused("a member is compressed, a link, encrypted, dated, or has extra fields")
        yield name, crc, size, offset
    if position != end:
        raise _refused("its directory has bytes that belong to no member")


def _decode(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise _refused("a member's name is not UTF-8") from error


def _local(name: bytes, crc: int, size: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", _VERSION, _UTF8, 0, 0, _DATE, crc, size, size, len(name), 0)


def _central(name: bytes, crc: int, size: int, offset: int) -> bytes:
    sizes = (crc, size, size, len(name), 0, 0, 0, 0)
    return _CENTRAL.pack(b"PK\1\2", _MADE_BY, _VERSION, _UTF8, 0, 0, _DATE, *sizes, _MODE, offset)


def _end(count: int, size: int, start: int) -> bytes:
    return _END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0)


def _refused(reason: str) -> MalformedFrame:
    return MalformedFrame(f"the archive of a package is refused: {reason}")
