"""Where requirements come from: the user's own word, the script's block (PEP 723), or the project's `pyproject.toml`.

Who says most about this class, and most deliberately, is heard first; and only one of them is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from attrs import frozen

from rmbus.errors import PackagingError
from rmbus.shipping.imports import Closure
from rmbus.shipping.locking import lock, name_of
from rmbus.shipping.modules import distributions
from rmbus.shipping.own import OWN, normal, own_requirements
from rmbus.shipping.package import Package, with_lock

_BLOCK: Final = re.compile(r"(?m)^# /// script[ \t]*$\s(?P<content>(^#(| .*)$\s)+)^# ///[ \t]*$")
_PROJECT: Final = "pyproject.toml"


@frozen
class Wanted:
    """Requirements, and who has stated them.

    Attributes:
        requirements: as they were written, without rmbus; empty where nothing beside the host's own is needed.
        source: in words; "" where nobody has.
    """

    requirements: tuple[str, ...] = ()
    source: str = ""


def find_requirements(entry: str, closure: Closure, declared: Sequence[str] | None, *, elsewhere: bool) -> Wanted:
    """Return what the environment of shipped code is to hold.

    Args:
        entry: `module:qualified name` of the class.
        closure: what was found that it needs.
        declared: what the user has stated for this very node, `()` included; None: nothing.
        elsewhere: whether the host has another environment than this process. Where it has the same, what the script
            or the project says of its environment is met already, and would only be installed a second time.

    Raises:
        PackagingError: a requirement is none, or a file that states them cannot be read.
    """
    if declared is not None:
        return Wanted(_without_own(declared), "the node")
    if not elsewhere:
        return Wanted()
    imported = {found.module.partition(".")[0] for found in closure.external} - {OWN}
    files = _files_of(entry, closure)
    for file in files:
        stated = read_block(file)
        if stated is not None:
            chosen = _without_own(stated)
            return Wanted(chosen if _concerns(chosen, imported) else (), f"the block of {file}")
    project = _project_of(files[0]) if files else None
    if project is None:
        return Wanted()
    return Wanted(_chosen(_without_own(read_project(project)), imported), str(project))


def provide(made: Package, declared: Sequence[str] | None, *, elsewhere: bool) -> Package:
    """Return the package with the locked requirements of its environment in it, if it is to have one.

    Args:
        made: the package. declared, elsewhere: see `find_requirements`.

    Raises:
        PackagingError: as `find_requirements`; or the requirements cannot be met, in the installer's words.
    """
    wanted = find_requirements(made.manifest.entry, made.closure, declared, elsewhere=elsewhere)
    try:
        locked = lock(wanted.requirements)
    except PackagingError as error:
        raise PackagingError(f"{made.manifest.entry}: {error} (stated by {wanted.source})") from error
    return with_lock(made, wanted.requirements, locked) if locked else made


def read_block(file: Path) -> tuple[str, ...] | None:
    """Return the dependencies that a script's block states (PEP 723); None where it has no block.

    Raises:
        PackagingError: the block is no valid one.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None  # a notebook's cell, or a file that is read by another encoding: neither can have a block
    blocks = [found["content"] for found in _BLOCK.finditer(text)]
    if not blocks:
        return None
    if len(blocks) > 1:
        raise PackagingError(f"{file} has {len(blocks)} blocks `# /// script`; it may have one")
    content = "".join(line[2:] if line.startswith("# ") else line[1:] for line in blocks[0].splitlines(keepends=True))
    return _list(_toml(content, file), "dependencies", f"the block of {file}")


def read_project(file: Path) -> tuple[str, ...]:
    """Return the dependencies of a project, without those of its extras and groups.

    Raises:
        PackagingError: the file is no valid one.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackagingError(f"{file} cannot be read: {error}") from error
    project = _toml(text, file).get("project", {})
    if not isinstance(project, dict):
        raise PackagingError(f"project in {file} is a table, [project]")
    table = cast(Mapping[str, object], project)
    return () if table.get("name") == OWN else _list(table, "dependencies", str(file))


def _files_of(entry: str, closure: Closure) -> list[Path]:
    """Return the file that the class is written in, and, where that is a module of the user's, the script he runs."""
    module = entry.partition(":")[0]
    found = [each.real for each in closure.modules if each.name == module]
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    own = [*found[:1], *([Path(script)] if found and isinstance(script, str) else [])]
    return list(dict.fromkeys(path.resolve() for path in own))


def _project_of(file: Path) -> Path | None:
    return next((path for folder in file.parents if (path := folder / _PROJECT).is_file()), None)


def _without_own(stated: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.strip() for each in stated if name_of(each) != OWN))


def _concerns(stated: Sequence[str], imported: Iterable[str]) -> bool:
    """Whether code that imports these modules needs any of the requirements: what is not installed here may be one."""
    names = {name_of(each) for each in _beyond_own(stated)}
    return bool(names) and any(not _providers(module) or _providers(module) & names for module in imported)


def _chosen(stated: Sequence[str], imported: Iterable[str]) -> tuple[str, ...]:
    """Return those of a project's many requirements that provide what is imported."""
    stated, wanted = _beyond_own(stated), set[str]()
    for module in imported:
        wanted |= _providers(module) or {normal(module)}
    return tuple(each for each in stated if name_of(each) in wanted)


def _beyond_own(stated: Sequence[str]) -> tuple[str, ...]:
    """Leave out what comes with rmbus on every host, and is wanted in whatever version."""
    brought = {name_of(each) for each in own_requirements()}
    return tuple(each for each in stated if normal(each) not in brought)


def _providers(module: str) -> set[str]:
    return {normal(name) for name in distributions().get(module, ())}


def _toml(text: str, file: Path) -> Mapping[str, object]:
    import tomllib  # here, because few need it

    try:
        value: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PackagingError(f"{file} states requirements in TOML that cannot be read: {error}") from error
    return value


def _list(table: Mapping[str, object], name: str, where: str) -> tuple[str, ...]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in cast(list[object], value)):
        raise PackagingError(f'{name} in {where} is a list of texts, such as ["scipy>=1.11"]')
    return tuple(cast(list[str], value))
