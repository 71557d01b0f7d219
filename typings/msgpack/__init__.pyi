"""Types of the part of msgpack that rmbus uses; the distribution ships none."""

from collections.abc import Callable
from typing import Any, NamedTuple

class ExtType(NamedTuple):
    code: int
    data: bytes | memoryview

class UnpackException(Exception): ...

class Packer:
    def __init__(self) -> None: ...
    def pack(self, obj: object) -> bytes: ...

def packb(
    o: object,
    *,
    default: Callable[[Any], object] | None = None,
    use_bin_type: bool = True,
    strict_types: bool = False,
) -> bytes: ...
def unpackb(
    packed: bytes | bytearray | memoryview,
    *,
    raw: bool = False,
    use_list: bool = True,
    strict_map_key: bool = True,
    ext_hook: Callable[[int, bytes], object] = ...,
    object_hook: Callable[[dict[Any, Any]], object] | None = None,
    max_str_len: int = -1,
    max_bin_len: int = -1,
    max_array_len: int = -1,
    max_map_len: int = -1,
    max_ext_len: int = -1,
) -> Any: ...
