"""The distribution: the list of packages, what the archives hold, how they install, and what an import costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rmbus

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
SETUPTOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
LINKS = {"rmbus/nodes": "../nodes", "rmbus/brokers": "../brokers", "rmbus/protocol": "../protocol"}


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command without this run's environment, and give its output; its errors are shown on failure."""
    kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def modules_on_disk(root: Path = ROOT) -> Iterator[str]:
    """Name every module of a tree by the path that it has in a wheel."""
    homes = {"rmbus": "rmbus", **{target.removeprefix("../"): link for link, target in LINKS.items()}}
    for top, home in homes.items():
        for path in (root / top).rglob("*.py"):  # does not follow links
            yield f"{home}/{path.relative_to(root / top)}"


def data_on_disk(root: Path = ROOT) -> set[str]:
    """Name what is to ship beside the modules."""
    vectors = {f"rmbus/protocol/vectors/{path.name}" for path in (root / "protocol/vectors").glob("*.json")}
    return {"rmbus/py.typed", "rmbus/protocol/README.md"} | vectors


# --- the list and the links -----------------------------------------------------------------------------------------


def test_listed_packages_are_those_on_disk() -> None:
    """A folder with modules is a listed package, and a listed package is a folder with an __init__.py."""
    on_disk = {str(Path(name).parent).replace("/", ".") for name in modules_on_disk()}
    assert set(SETUPTOOLS["packages"]) == on_disk
    assert len(SETUPTOOLS["packages"]) == len(on_disk)
    assert {f"{package.replace('.', '/')}/__init__.py" for package in on_disk} <= set(modules_on_disk())


def test_links_agree_with_the_mapping() -> None:
    """Each package that lives outside rmbus/ has a relative link inside it, to where package-dir says."""
    found = {
        str(path.relative_to(ROOT)): str(path.readlink()) for path in (ROOT / "rmbus").rglob("*") if path.is_symlink()
    }
    assert found == LINKS
    mapping = {package.replace(".", "/"): f"../{folder}" for package, folder in SETUPTOOLS["package-dir"].items()}
    assert mapping == LINKS


# --- imports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["rmbus", "rmbus.errors", "rmbus.protocol"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    """Neither the package itself nor its wire loads ZeroMQ, numpy or the media libraries."""
    heavy = "{'asyncio', 'attrs', 'av', 'cloudpickle', 'numpy', 'typer', 'uvloop', 'zmq'}"
    if module == "rmbus.protocol":
        heavy = "{'asyncio', 'av', 'cloudpickle', 'numpy', 'typer', 'uvloop', 'zmq'}"
    loaded = run(sys.executable, "-c", f"import sys, {module}; print(sorted({heavy} & sys.modules.keys()))")
    assert loaded.strip() == "[]"


def test_unknown_names_are_attribute_errors() -> None:
    """The lazy package still says what it does not have."""
    with pytest.raises(AttributeError, match="'Pipelines'"):
        _ = rmbus.Pipelines  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", rmbus.__all__)
def test_public_names_resolve(name: str) -> None:
    """Each public name can be imported, is there for dir(), and is the same object every time."""
    assert getattr(rmbus, name) is getattr(rmbus, name)
    assert name in dir(rmbus)


def test_public_names_are_those_of_the_docs() -> None:
    """docs/api.md has a section for each public name, in some order, and for nothing else."""
    headings = [
        line[3:].strip("` ") for line in (ROOT / "docs/api.md").read_text().splitlines() if line.startswith("## `")
    ]
    assert sorted(headings) == sorted(rmbus.__all__)
    assert len(rmbus.__all__) - len({"aio", "errors", "nodes", "packaging", "testing"}) <= 25


# --- archives and installations -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a build needs, so that nothing is left in the checkout and nothing stale there comes in."""
    copy = tmp_path_factory.mktemp("tree") / "rmbus"
    copy.mkdir()
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    for name in ("rmbus", *SETUPTOOLS["package-dir"].values()):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def archives(tree: Path) -> dict[str, Path]:
    """Build a wheel from the tree, a source archive, and a wheel from the source archive."""
    out = tree.parent
    run(UV, "build", "--quiet", "--wheel", "--out-dir", out / "direct", tree)
    run(UV, "build", "--quiet", "--sdist", "--out-dir", out / "source", tree)
    (source,) = (out / "source").glob("*.tar.gz")
    run(UV, "build", "--quiet", "--wheel", "--out-dir", out / "again", source)
    (direct,), (again,) = (out / "direct").glob("*.whl"), (out / "again").glob("*.whl")
    return {"wheel": direct, "source": source, "wheel_from_source": again}


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["wheel", "wheel_from_source"])
def test_wheels_hold_every_module(tree: Path, archives: dict[str, Path], kind: str) -> None:
    """Both wheels hold each module and each data file of the tree once, and nothing of another folder."""
    names = [name for name in zipfile.ZipFile(archives[kind]).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted({*modules_on_disk(tree), *data_on_disk(tree)})


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_source_archive_holds_licence_and_modules(archives: dict[str, Path]) -> None:
    """The source archive can be built from: modules under their own folders, and no link."""
    with tarfile.open(archives["source"]) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert {"LICENSE", "README.md", "pyproject.toml", "nodes/__init__.py", "protocol/README.md"} <= members.keys()
    assert not [name for name, member in members.items() if member.issym()]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["wheel", "wheel_from_source", "editable"])
def test_installs_and_runs(tree: Path, archives: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """From each kind of installation, away from the checkout, the command runs and every module can be found."""
    python = tmp_path / "env/bin/python"
    run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "env")
    what = ["--editable", str(tree)] if kind == "editable" else [str(archives[kind])]
    run(UV, "pip", "install", "--quiet", "--python", python, *what)
    assert run(python.with_name("rmbus"), "--version", cwd=tmp_path).strip() == f"rmbus {rmbus.__version__}"
    paths = sorted(modules_on_disk(tree))
    modules = [path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in paths]
    found = "import importlib.util as u, sys; print([m for m in sys.argv[1:] if u.find_spec(m) is None])"
    assert run(python, "-c", found, *modules, cwd=tmp_path).strip() == "[]"
