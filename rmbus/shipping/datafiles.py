"""Data files that travel with modules: those in a shipped package's folder, and those that a lone module names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Final

from attrs import frozen

from rmbus.shipping.imports import LocalModule, SourceFile

MAX_DATA_FILE_BYTES: Final = 16 * 1024 * 1024
"""A larger data file travels only if it is declared."""

MAX_FOLDER_FILES: Final = 2000
MAX_FOLDER_BYTES: Final = 128 * 1024 * 1024
"""If the data files of one folder are more than this, none of them travels unless it is declared."""

NEVER: Final = (
    ".*", "__pycache__", "node_modules", "*.egg-info", "*~", "*.swp", "*.pyc", "*.pyo",
)  # fmt: skip
"""Names of files and folders that never come by themselves: hidden ones (.git, .env, .venv, .ssh ...), left-overs."""

SECRET: Final = (
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.gpg", "*.asc", "id_rsa*", "id_dsa*",
    "id_ecdsa*", "id_ed25519*", "*.env", "credentials*", "secrets", "secrets.*", "*.secret",
)  # fmt: skip
"""Names of files that look like keys and passwords; left out, and said so."""

_CODE: Final = tuple(all_suffixes())


@frozen(order=True)
class Skipped:
    """A file that was left out, and why."""

    path: str
    reason: str


class DataFiles:
    """Collects data files, by their path in the package.

    Args:
        exclude: patterns of what to leave out: of a whole path in the package, or of any one part of it.
    """

    def __init__(self, exclude: Sequence[str] = ()) -> None:
        self._exclude = tuple(exclude)
        self.files: set[SourceFile] = set()
        self.skipped: dict[str, Skipped] = {}

    def of_modules(self, modules: Iterable[LocalModule]) -> None:
        """Add what lies in the folders of the packages among these modules, and what lone modules name."""
        modules = tuple(modules)
        packages = {module.name for module in modules if module.folders and module.file}
        for module in modules:
            if module.name in packages:
                for folder in module.folders:
                    self._folder(Path(folder), module.name.replace(".", "/"))
            elif module.scan.literals and module.package not in packages and os.path.isfile(module.real):
                self._named(module)

    def declared(self, real: Path, path: str) -> None:
        """Add a file or folder that was named by the user: only what a folder's walk finds is filtered."""
        if real.is_dir():
            for file in _walk(real):
                self._consider(file, f"{path}/{file.relative_to(real).as_posix()}".removeprefix("./"), None, code=True)
        else:
            self.files.add(SourceFile(path, real))

    def excluded(self, path: str) -> bool:
        """Whether the user's patterns leave this path out."""
        parts = path.split("/")
        return any(
            fnmatchcase(path, pattern) or any(fnmatchcase(part, pattern.rstrip("/")) for part in parts)
            for pattern in self._exclude
        )

    def _folder(self, folder: Path, path: str) -> None:
        found = DataFiles(self._exclude)
        for file in _walk(folder, stop_at_packages=True):
            found._consider(file, f"{path}/{file.relative_to(folder).as_posix()}", folder)
            if len(found.files) > MAX_FOLDER_FILES:
                break
        size = sum(file.real.stat().st_size for file in found.files)
        if len(found.files) <= MAX_FOLDER_FILES and size <= MAX_FOLDER_BYTES:
            self.files |= found.files
            self.skipped |= found.skipped
        else:
            limits = f"more than {MAX_FOLDER_FILES} data files or {MAX_FOLDER_BYTES >> 20} MiB of them"
            self.skipped[path] = Skipped(path, f"has {limits}; declare those that the host needs")

    def _named(self, module: LocalModule) -> None:
        """Add what a module or script outside any package names by a text literal, if it lies beside it."""
        beside = module.real.parent
        prefix = "".join(f"{part}/" for part in module.package.split(".") if part)
        for literal in module.scan.literals:
            text = literal.removeprefix("./").strip("/")
            if not text or len(text) > 200 or not text.isprintable() or ".." in text.split("/") or text == ".":
                continue
            found = list(beside.glob(text)) if any(sign in text for sign in "*?[") and "**" not in text else []
            for real in found or [beside / text]:
                if os.path.isfile(real):
                    self._consider(real, prefix + real.relative_to(beside).as_posix(), beside)
                elif (
                    os.path.isdir(real) and not found and not (real / "__init__.py").exists() and not _never(real.name)
                ):
                    self._folder(real, prefix + real.relative_to(beside).as_posix())

    def _consider(self, file: Path, path: str, folder: Path | None, *, code: bool = False) -> None:
        if (file.name.endswith(_CODE) and not code) or _never(file.name):
            return
        reason = self._reason(file, path, folder)
        if reason:
            self.skipped[path] = Skipped(path, reason)
        else:
            self.files.add(SourceFile(path, file))

    def _reason(self, file: Path, path: str, folder: Path | None) -> str:
        size = file.stat().st_size
        if self.excluded(path):
            return "excluded by a pattern"
        if any(fnmatchcase(file.name.lower(), pattern) for pattern in SECRET):
            return "looks like a key or a password"
        if file.is_symlink() and not file.resolve().is_relative_to((folder or file.parent).resolve()):
            return "is a link that leads out of its folder"
        if size > MAX_DATA_FILE_BYTES and folder is not None:
            return f"has {size >> 20} MiB; declare it if the host needs it"
        return ""


def _walk(folder: Path, *, stop_at_packages: bool = False) -> Iterator[Path]:
    for top, folders, files in os.walk(folder):
        here = Path(top)
        folders[:] = sorted(name for name in folders if not _skip(here / name, stop_at_packages))
        yield from (here / name for name in sorted(files) if os.path.isfile(here / name))


def _skip(folder: Path, stop_at_packages: bool) -> bool:
    if _never(folder.name) or (folder / "pyvenv.cfg").exists():
        return True
    return stop_at_packages and (folder / "__init__.py").exists()


def _never(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in NEVER)
