"""The manifest of a package: a pure value, its one canonical form, and the content address made from it.

The canonical form is JSON in ASCII with sorted keys and no spaces; the address is the sha256 of it in hex. A manifest
that is not in its canonical form is refused, so one content has one address and one address has one content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, cast

from attrs import frozen

from rmbus.errors import MalformedFrame, TooLarge, UnsupportedVersion
from rmbus.protocol.lock import LOCK_PATH, MAX_LOCK_BYTES

MANIFEST_VERSION: Final = 1

MAX_FILES: Final = 5000
"""Files of one package."""

MAX_PATH_BYTES: Final = 512
"""A file's path inside its package, in UTF-8; each part of it is at most 255 bytes."""

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""One file of a package."""

MAX_PACKAGE_BYTES: Final = 512 * 1024 * 1024
"""All files of a package, and the archive that holds them."""

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024

MAX_TEXT: Final = 1024
"""Characters of any other text in a manifest."""

Kind = Literal["object", "files"]

_ADDRESS: Final = re.compile(r"[0-9a-f]{64}")
_PYTHON: Final = re.compile(r"[a-z][a-z0-9_]{0,31}-[0-9]{1,3}\.[0-9]{1,3}")


@frozen(order=True)
class FileEntry:
    """One file of a package.

    Attributes:
        path: where it lies in the package, with slashes.
        sha256: of its bytes, in hex.
        size: in bytes.
    """

    path: str
    sha256: str
    size: int


@frozen(order=True)
class Need:
    """A module that the shipped code imports unguarded and that the package does not hold: the host must have it.

    Attributes:
        module: its dotted name.
        importer: the module that imports it.
        file: the importer's file, as a path in the package; the bare file name of a script.
        line: where, counted from 1.
    """

    module: str
    importer: str
    file: str
    line: int


@frozen
class Manifest:
    """What is in a package.

    Attributes:
        entry: `module:qualified name` of the class that was packaged, or the first module of packaged files.
        python: implementation and minor version that the code was packaged on, as in `cpython-3.11`.
        files: all files, sorted by path.
        needs: modules that must be on the host, sorted.
        requirements: distributions as they were declared, sorted.
        lock: sha256 of the locked requirements, which are the file at `LOCK_PATH`; empty where there are none.
        kind: an object's class with all that it needs, or files as they were named.
    """

    entry: str
    python: str
    files: tuple[FileEntry, ...] = ()
    needs: tuple[Need, ...] = ()
    requirements: tuple[str, ...] = ()
    lock: str = ""
    kind: Kind = "object"

    def __attrs_post_init__(self) -> None:
        _check_files(self.files)
        if not _PYTHON.fullmatch(self.python):
            raise MalformedFrame(f"a manifest's Python is like cpython-3.11, not {self.python[:40]!r}")
        if self.lock and not is_address(self.lock):
            raise MalformedFrame("a manifest's lock is empty or a sha256 in hex")
        locked = [file for file in self.files if file.path == LOCK_PATH]
        if self.lock != "".join(file.sha256 for file in locked):
            raise MalformedFrame(f"a manifest's lock is not the sha256 of the package's file {LOCK_PATH}")
        if locked and locked[0].size > MAX_LOCK_BYTES:
            raise TooLarge(f"a package's file {LOCK_PATH}", locked[0].size, MAX_LOCK_BYTES)
        if self.kind not in ("object", "files"):
            raise MalformedFrame(f"a manifest's kind is object or files, not {self.kind!r}")
        if list(self.needs) != sorted(set(self.needs)) or list(self.requirements) != sorted(set(self.requirements)):
            raise MalformedFrame("a manifest's needs or requirements are not sorted, or not different")
        for need in self.needs:
            _check_text(need.module, need.importer, need.file)
        _check_text(self.entry, *self.requirements)

    @property
    def address(self) -> str:
        """The content address: sha256 of the canonical form, in hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """Return the canonical form."""
        value = {
            "entry": self.entry,
            "files": [[file.path, file.sha256, file.size] for file in self.files],
            "kind": self.kind,
            "lock": self.lock,
            "needs": [[need.module, need.importer, need.file, need.line] for need in self.needs],
            "python": self.python,
            "requirements": list(self.requirements),
            "version": MANIFEST_VERSION,
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest whose canonical form the bytes are.

    Raises:
        MalformedFrame: they are no manifest, or not in canonical form. TooLarge: a limit is passed.
        UnsupportedVersion: the manifest is of another version.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise TooLarge("a package's manifest", len(data), MAX_MANIFEST_BYTES)
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedFrame(f"a package's manifest is not JSON: {str(error)[:200]}") from error
    fields = _mapping(value)
    version = fields.get("version")
    if version != MANIFEST_VERSION:
        raise UnsupportedVersion(
            f"a package's manifest has version {version!r:.40}; this side reads {MANIFEST_VERSION}"
        )
    files = (_row(row, (str, str, int)) for row in _list(fields.get("files")))
    needs = (_row(row, (str, str, str, int)) for row in _list(fields.get("needs")))
    manifest = Manifest(
        entry=_text(fields.get("entry")),
        python=_text(fields.get("python")),
        files=tuple(FileEntry(*cast(tuple[str, str, int], row)) for row in files),
        needs=tuple(Need(*cast(tuple[str, str, str, int], row)) for row in needs),
        requirements=tuple(_text(item) for item in _list(fields.get("requirements"))),
        lock=_text(fields.get("lock")),
        kind=cast(Kind, _text(fields.get("kind"))),
    )
    if manifest.encode() != data:
        raise MalformedFrame("a package's manifest is not in its canonical form")
    return manifest


def is_address(text: str) -> bool:
    """Whether the text has the form of a content address: 64 hex digits in lower case."""
    return _ADDRESS.fullmatch(text) is not None


def check_path(path: str) -> None:
    """Pass a path that may stand in a package: relative, plain, and below the folder that it is unpacked into.

    Raises:
        MalformedFrame: it may not, with the reason.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError as error:
        raise MalformedFrame(f"the path {path!a:.120} in a package is not Unicode text") from error
    parts = path.split("/")
    if not path.isprintable() or "\\" in path:
        reason = "has a backslash, or a character that cannot be printed"
    elif path.startswith("/") or (len(path) > 1 and path[1] == ":"):
        reason = "is absolute"
    elif any(part in ("", ".", "..") for part in parts):
        reason = "has an empty part, `.` or `..`"
    elif size > MAX_PATH_BYTES or any(len(part.encode()) > 255 for part in parts):
        reason = "is too long"
    else:
        return
    raise MalformedFrame(f"the path {path[:120]!a} in a package {reason}")


def _check_files(files: tuple[FileEntry, ...]) -> None:
    if len(files) > MAX_FILES:
        raise TooLarge("the list of a package's files", len(files), MAX_FILES)
    total, before = 0, ""
    for file in files:
        check_path(file.path)
        if file.path <= before:
            raise MalformedFrame(f"a package's files are not sorted, or not different, at {file.path[:120]!a}")
        if not is_address(file.sha256) or file.size < 0:
            raise MalformedFrame(f"a package's file {file.path[:120]!a} has no valid hash or size")
        if file.size > MAX_FILE_BYTES:
            raise TooLarge(f"a package's file {file.path[:120]!a}", file.size, MAX_FILE_BYTES)
        total, before = total + file.size, file.path
    if total > MAX_PACKAGE_BYTES:
        raise TooLarge("a package", total, MAX_PACKAGE_BYTES)
    _check_folders(file.path for file in files)


def _check_folders(paths: Iterable[str]) -> None:
    names = set(paths)
    for path in names:
        folder = path.rpartition("/")[0]
        while folder:
            if folder in names:
                raise MalformedFrame(f"the path {folder[:120]!a} in a package is a file and a folder at once")
            folder = folder.rpartition("/")[0]


def _check_text(*texts: str) -> None:
    for text in texts:
        if len(text) > MAX_TEXT:
            raise TooLarge("a text of a package's manifest", len(text), MAX_TEXT)


def _mapping(value: object) -> Mapping[object, object]:
    if not isinstance(value, dict):
        raise MalformedFrame("a package's manifest is not a JSON object")
    return cast(Mapping[object, object], value)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise MalformedFrame("a package's manifest lacks a list that it must have")
    return cast(list[object], value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise MalformedFrame("a package's manifest lacks a text that it must have")
    return value


def _row(value: object, kinds: tuple[type, ...]) -> tuple[object, ...]:
    row = tuple(_list(value))
    if len(row) != len(kinds) or any(type(item) is not kind for item, kind in zip(row, kinds, strict=True)):
        raise MalformedFrame("a row of a package's manifest has other fields than it should")
    return row
