"""Locking: from requirements as a person writes them to the exact list that an environment is made of.

The installer is asked once for each set of requirements; its answer is kept for a day.
"""

from __future__ import annotations

import hashlib
import platform
import re
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import rmbus
from rmbus.errors import PackagingError, ProtocolError
from rmbus.protocol.lock import Locked, decode_lock, encode_lock
from rmbus.protocol.manifest import MAX_TEXT
from rmbus.shipping import installer
from rmbus.shipping.content import python_tag
from rmbus.shipping.own import OWN, dependents, normal, own_requirements
from rmbus.shipping.places import cache_folder

FRESH_S: Final = 24 * 3600.0
"""How long what the index said is taken for what it still says."""

LOCKING_S: Final = 180.0
"""How long the installer may take to choose versions."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_HASH: Final = "--hash=sha256:"


def name_of(requirement: str) -> str:
    """Return the name of the distribution that is required, in its normal form.

    Raises:
        PackagingError: the text is no requirement that an index could meet.
    """
    text = requirement.strip()
    found = _NAME.match(text)
    if found is None or "\n" in text or len(text) > MAX_TEXT:
        raise PackagingError(
            f"{requirement[:80]!r} is no requirement: write a distribution's name, as in 'scipy>=1.11'"
        )
    rest = text[found.end() :].partition(";")[0].strip()
    rest = rest.partition("]")[2].strip() if rest.startswith("[") else rest
    if rest and rest[0] not in "<>=!~(,":
        raise PackagingError(
            f"{requirement[:80]!r} cannot be locked: an environment holds released versions from an index, and nothing "
            "from an address or a folder; local code is shipped as it is, without a requirement"
        )
    return normal(found[0])


def lock(requirements: Sequence[str], *, folder: Path | None = None) -> bytes:
    """Return the locked requirements for this Python on this kind of machine, in canonical form; wheels only.

    rmbus itself is left out, since each host has its own; that what it needs goes together with the rest is seen to.

    Args:
        requirements: as pip writes them.
        folder: where answers are kept; by default in the user's cache.

    Raises:
        PackagingError: they cannot be met, in the installer's words.
    """
    wanted = sorted({each.strip() for each in requirements if name_of(each) != OWN})
    if not wanted:
        return b""
    kept = (folder or cache_folder() / "locks") / f"{_key(wanted)}.lock"
    known = _kept(kept)
    if known is None:
        known = _locked(wanted)
        _keep(kept, known)
    return known


def read_compiled(text: str) -> tuple[Locked, ...]:
    """Return what the installer chose.

    Raises:
        PackagingError: it is nothing that can be locked.
    """
    items: list[Locked] = []
    for line in text.replace("\\\n", " ").splitlines():
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        name, equals, version = parts[0].partition("==")
        hashes = {part.removeprefix(_HASH) for part in parts[1:] if part.startswith(_HASH)}
        if not equals or len(parts) - 1 != sum(part.startswith("--hash=") for part in parts) or not hashes:
            raise PackagingError(f"the installer has chosen what cannot be locked by hash: {line[:200]!r}")
        try:
            items.append(Locked(name, version, tuple(sorted(hashes))))
        except ProtocolError as error:
            raise PackagingError(f"the installer has chosen what cannot be locked: {error}") from error
    return tuple(items)


def _locked(wanted: Sequence[str]) -> bytes:
    """Lock what is wanted; and where rmbus requires some of that too, whatever of its requirements depends on it.

    The rest of what it requires comes from the host, in versions that go together.
    """
    also: set[str] = set()
    while True:
        items = read_compiled(_compiled([*wanted, *sorted(also)], wanted))
        names = {item.name for item in items}
        more = dependents(names) - names
        if more <= also:
            break
        also |= more
    try:
        return encode_lock(items)
    except ProtocolError as error:
        raise PackagingError(f"the requirements {', '.join(wanted)} cannot be locked: {error}") from error


def _compiled(requirements: Sequence[str], wanted: Sequence[str]) -> str:
    """Return the installer's choice, in its own form."""
    import tempfile  # here, because it takes long to import

    with tempfile.TemporaryDirectory(prefix="rmbus-lock-") as aside:
        ours = Path(aside, "ours.txt")
        ours.write_text("".join(f"{each}\n" for each in own_requirements()), encoding="utf-8")
        without = Path(aside, "without.txt")
        without.write_text(f'{OWN} ; python_version < "3"\n', encoding="utf-8")  # whoever needs it: it is there
        status, compiled, said = installer.run(
            [
                *("pip", "compile", "-", "--generate-hashes", "--only-binary", ":all:", "--no-annotate", "--no-header"),
                *("--python", sys.executable, "--constraint", str(ours), "--override", str(without)),
                *([] if sys.platform == "linux" else ["--python-platform", "linux"]),  # hosts run on Linux
            ],
            stdin="".join(f"{each}\n" for each in requirements),
            constrained=True,
            timeout_s=LOCKING_S,
        )
    if status != 0:
        raise PackagingError(f"the requirements {', '.join(wanted)} cannot be met:\n{installer.words(said)}")
    return compiled


def _key(wanted: Sequence[str]) -> str:
    parts = (python_tag(), sys.platform, platform.machine(), rmbus.__version__, *wanted)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _kept(path: Path) -> bytes | None:
    try:
        if time.time() - path.stat().st_mtime > FRESH_S:
            return None
        data = path.read_bytes()
        decode_lock(data)
    except (OSError, ProtocolError):
        return None
    return data


def _keep(path: Path, data: bytes) -> None:
    """Keep an answer; where that cannot be done, the installer is asked again the next time."""
    aside = path.with_suffix(f".{secrets.token_hex(4)}.part")
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside.write_bytes(data)
        aside.rename(path)
