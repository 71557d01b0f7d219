"""Values to bytes and back, in three forms with one interface; what fails is a `SerializationError`.

rmbus itself sends values as `Data`, and needs none of these: they are for files, databases and other programs.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from rmbus import values
from rmbus.errors import FormatError, MalformedFrame, SerializationError
from rmbus.protocol.lane import Buffer
from rmbus.protocol.limits import MAX_BLOB_BYTES
from rmbus.shipping.blame import find_culprit
from rmbus.shipping.pickling import size_of
from rmbus.shipping.plain import PLAIN

if TYPE_CHECKING:  # cloudpickle ships no types; its pickler has the standard one's
    from pickle import Pickler as CloudPickler
else:
    from cloudpickle import Pickler as CloudPickler

__all__ = ["JsonSerializer", "MsgpackSerializer", "PickleSerializer", "SerializationError", "Serializer"]

_LENGTH: Final = struct.Struct("<Q")
_ALL: Final = 0  # no msgpack is empty
_PLAIN: Final = frozenset(f"{module}.{name}" for module, names in PLAIN.items() for name in names)


class Serializer(ABC):
    """Makes values into bytes, and bytes into values.

    Args:
        limit_bytes: more bytes than these are neither made nor read.
    """

    def __init__(self, *, limit_bytes: int = MAX_BLOB_BYTES) -> None:
        self.limit_bytes = limit_bytes

    def serialize(self, value: object) -> bytes:
        """Return the value as bytes.

        Raises:
            SerializationError: the form cannot hold it, or it is over the limit.
        """
        data = self._dump(value)
        self._check_size(len(data))
        return data

    def deserialize(self, data: Buffer) -> Any:
        """Return the value that the bytes hold.

        Raises:
            SerializationError: they are none of this form, or over the limit.
        """
        view = memoryview(data)
        self._check_size(view.nbytes)
        return self._load(view)

    @abstractmethod
    def _dump(self, value: object) -> bytes: ...

    @abstractmethod
    def _load(self, data: memoryview) -> Any: ...

    def _check_size(self, size: int) -> None:
        if size > self.limit_bytes:
            raise SerializationError(
                f"{size} bytes are over the limit of {self.limit_bytes}: give {type(self).__name__}(limit_bytes=...)"
            )


class JsonSerializer(Serializer):
    """JSON in UTF-8: None, bool, int, float, str, lists and dictionaries.

    As ever with JSON, tuples come back as lists, and keys as text. Infinity and NaN are none of it, and refused.
    """

    def _dump(self, value: object) -> bytes:
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(f"the value cannot be JSON: {error}") from error

    def _load(self, data: memoryview) -> Any:
        try:
            return json.loads(bytes(data).decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise SerializationError(f"the bytes are no JSON: {error}") from error


class MsgpackSerializer(Serializer):
    """What `Data` holds: JSON's values, bytes, numpy arrays, and the fields of attrs classes and dataclasses.

    The bytes are the length of the msgpack, 8 bytes, little-endian, 0 where nothing follows it; the msgpack; the bytes
    of its arrays, as `rmbus.values` has them. Arrays come back as read-only views of the bytes, which must not change.
    """

    def _dump(self, value: object) -> bytes:
        try:
            length, payload = values.dump(value)
        except FormatError as error:
            raise SerializationError(str(error)) from error
        return _LENGTH.pack(_ALL if length is None else length) + bytes(payload)

    def _load(self, data: memoryview) -> Any:
        if len(data) < _LENGTH.size:
            raise SerializationError(f"the bytes are no msgpack of a serializer: there are only {len(data)}")
        (length,) = _LENGTH.unpack_from(data)
        try:
            return values.load(None if length == _ALL else length, data[_LENGTH.size :])
        except MalformedFrame as error:
            raise SerializationError(str(error)) from error


class PickleSerializer(Serializer):
    """Pickles, by cloudpickle. They are read by the same minor version of Python only.

    To load a pickle can run any code. So only plain values are loaded: of the builtin types, `collections`, `datetime`,
    `decimal`, `fractions`, `uuid` and numpy arrays; others by leave.

    Args:
        allow: classes and functions that pickles may refer to beside, themselves or as `module.name`.
        trusted: load whatever it is. Only for bytes of your own making that nobody else could change.
        limit_bytes: more bytes than these are neither made nor read.
    """

    def __init__(
        self, *, allow: Iterable[type | str] = (), trusted: bool = False, limit_bytes: int = MAX_BLOB_BYTES
    ) -> None:
        super().__init__(limit_bytes=limit_bytes)
        self.allow = frozenset(each if isinstance(each, str) else _full_name(each) for each in allow)
        self.trusted = trusted

    def _dump(self, value: object) -> bytes:
        file = io.BytesIO()
        try:
            CloudPickler(file, protocol=5).dump(value)
        except Exception as error:  # a reducer is the user's code and may raise anything
            path, kind = find_culprit(value, size_of)
            raise SerializationError(f"{path} ({kind}) cannot be pickled: {error}") from error
        return file.getvalue()

    def _load(self, data: memoryview) -> Any:
        file = io.BytesIO(data)
        unpickler = pickle.Unpickler(file) if self.trusted else _Unpickler(file, _PLAIN | self.allow)
        try:
            return unpickler.load()
        except SerializationError:
            raise
        except Exception as error:  # what is called to rebuild a value may raise anything
            raise SerializationError(f"the pickle cannot be loaded: {type(error).__name__}: {error}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, allowed: frozenset[str]) -> None:
        super().__init__(file)
        self._allowed = allowed

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        full = f"{module_name}.{global_name}"
        if full not in self._allowed:
            raise SerializationError(
                f"the pickle refers to {full}, and loading it might run anything: PickleSerializer(allow=[{full!r}]) "
                "takes it, PickleSerializer(trusted=True) takes all: only for bytes of your own making"
            )
        return super().find_class(module_name, global_name)


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is none")
