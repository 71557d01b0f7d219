"""Where requirements come from, and how they are told to the installer."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rmbus import Node
from rmbus.errors import PackagingError
from rmbus.node import declared_requirements
from rmbus.protocol.lock import Locked
from rmbus.shipping import installer
from rmbus.shipping.locking import lock, name_of, read_compiled
from rmbus.shipping.own import dependents, own_distributions, own_requirements
from rmbus.shipping.package import build
from rmbus.shipping.requirements import Wanted, find_requirements, read_block, read_project

BLOCK = """\
#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "rmbus",
#   "Hypothesis>=6",  # of which it needs much
# ]
# ///
"""

CODE = """
import hypothesis

class Thing:
    def go(self):
        return hypothesis.__name__
"""

PROJECT = """
[project]
name = "application"
dependencies = ["rmbus[ui]", "numpy", "hypothesis>=6", "django", "torch==2.9"]
[project.optional-dependencies]
more = ["scipy"]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Write a project and import a module of it; afterwards it is forgotten."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(files: Mapping[str, str], module: str) -> ModuleType:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(module)

    yield written
    for name in set(sys.modules) - before:
        del sys.modules[name]


def wanted(thing: Any, declared: tuple[str, ...] | None = None, *, elsewhere: bool = True) -> Wanted:
    made = build(thing)
    return find_requirements(made.manifest.entry, made.closure, declared, elsewhere=elsewhere)


def test_what_a_node_states() -> None:
    """A node's options go before its class; a class that states nothing is told from one that states `()`."""

    class Bare(Node):
        def process(self, frame: Any) -> Any: ...

    class Stated(Bare):
        requirements = ("torch",)

    class Empty(Bare):
        requirements = ()

    assert declared_requirements(Bare()) is None
    assert declared_requirements(Stated()) == ("torch",)
    assert declared_requirements(Empty()) == ()
    assert declared_requirements(Stated().options(requirements=[])) == ()
    assert declared_requirements(Bare().options(requirements="idna")) == ("idna",)


def test_the_users_word_goes_before_all(write: Any) -> None:
    """What is stated for the node counts, in whatever environment the host is; rmbus itself is no requirement."""
    thing = write({"stated_thing.py": BLOCK + CODE, "pyproject.toml": PROJECT}, "stated_thing").Thing()
    for elsewhere in (True, False):
        assert wanted(thing, ("idna==2.10", "rmbus>=0.1"), elsewhere=elsewhere).requirements == ("idna==2.10",)
        assert wanted(thing, (), elsewhere=elsewhere).requirements == ()


def test_a_block_goes_before_the_project(write: Any, tmp_path: Path) -> None:
    """The script's own block counts whole, and where it was found is told."""
    thing = write({"block_thing.py": BLOCK + CODE, "pyproject.toml": PROJECT}, "block_thing").Thing()
    found = wanted(thing)
    assert found.requirements == ("Hypothesis>=6",)
    assert found.source == f"the block of {tmp_path / 'block_thing.py'}"


def test_of_a_project_what_is_imported(write: Any, tmp_path: Path) -> None:
    """An application's long list does not travel: only what the class imports, and not what rmbus brings anyway."""
    code = "import numpy\n" + CODE
    thing = write({"project_thing.py": code, "pyproject.toml": PROJECT}, "project_thing").Thing()
    assert wanted(thing) == Wanted(("hypothesis>=6",), str(tmp_path / "pyproject.toml"))


def test_what_is_not_here_is_looked_for_by_its_name(write: Any) -> None:
    """A module that is only on the host is taken from the project's list where the distribution has its name."""
    code = "class Thing:\n    def go(self):\n        import django.db\n"
    thing = write({"absent_thing.py": code, "pyproject.toml": PROJECT}, "absent_thing").Thing()
    assert wanted(thing).requirements == ("django",)


@pytest.mark.parametrize("statement", [BLOCK, ""])
def test_code_that_needs_nothing_has_no_environment(write: Any, statement: str) -> None:
    """A class that imports nothing of what is stated starts warm, as ever."""
    name = f"plain_thing_{len(statement)}"
    files = {f"{name}.py": statement + "import json, numpy\nclass Thing: ...\n", "pyproject.toml": PROJECT}
    assert wanted(write(files, name).Thing()).requirements == ()


def test_a_host_in_the_same_environment_needs_nothing(write: Any) -> None:
    """Where the host has what is installed here, neither block nor project is installed a second time."""
    thing = write({"same_thing.py": BLOCK + CODE, "pyproject.toml": PROJECT}, "same_thing").Thing()
    assert wanted(thing, elsewhere=False) == Wanted()


def test_a_block_that_is_none(tmp_path: Path) -> None:
    """A block that cannot be read is an error with the file; a file without one is none."""
    script = tmp_path / "script.py"
    for text in ("x = 1\n", "# /// other\n# a = 1\n# ///\n", "# /// script\n# not closed\n"):
        script.write_text(text)
        assert read_block(script) is None
    for text in (
        "# /// script\n# dependencies = [\n# ///\n",
        '# /// script\n# dependencies = "idna"\n# ///\n',
        BLOCK + BLOCK,
    ):
        script.write_text(text)
        with pytest.raises(PackagingError, match=r"script\.py"):
            read_block(script)
    script.write_text("# /// script\n#\n# ///\n")
    assert read_block(script) == ()


def test_a_project_without_dependencies(tmp_path: Path) -> None:
    """A file of settings alone states none, nor does our own project; one that is no TOML is an error."""
    file = tmp_path / "pyproject.toml"
    for text in ("[tool.ruff]\n", '[project]\nname = "x"\n', '[project]\nname = "rmbus"\ndependencies = ["av"]\n'):
        file.write_text(text)
        assert read_project(file) == ()
    file.write_text("[project\n")
    with pytest.raises(PackagingError, match=r"pyproject\.toml"):
        read_project(file)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("scipy", "scipy"),
        ("Scikit_Video[all] >=1; python_version>'3'", "scikit-video"),
        ("a.b==1", "a-b"),
        ("x~=1.0", "x"),
    ],
)
def test_names(text: str, name: str) -> None:
    """Names are compared in their normal form."""
    assert name_of(text) == name


@pytest.mark.parametrize(
    "text",
    ["", "-r list.txt", "--index-url http://x", "./folder", "a @ http://x/a.whl", "git+https://x/y", "a\nb", "a b"],
)
def test_what_cannot_be_locked(text: str) -> None:
    """An option, a path or an address is no requirement."""
    with pytest.raises(PackagingError, match="requirement"):
        name_of(text)


def test_nothing_to_lock(tmp_path: Path) -> None:
    """rmbus alone is no reason for an environment, and the installer is not asked."""
    assert lock(["rmbus", "rmbus[ui]>=0.1"], folder=tmp_path) == b""
    assert not list(tmp_path.iterdir())
    assert any(each.startswith("pyzmq") for each in own_requirements())
    assert not any("extra" in each for each in own_requirements())


def test_what_rmbus_requires_and_what_that_requires() -> None:
    """All of it is known by name; and of a distribution, what of rmbus's own would be broken by another version."""
    assert {"rmbus", "attrs", "cattrs", "numpy", "pyzmq"} <= set(own_distributions())
    assert "uv" not in own_distributions()
    assert dependents({"attrs"}) == {"cattrs"}
    assert dependents({"idna", "numpy"}) == set()


def test_what_the_installer_has_chosen() -> None:
    """Its list is read with all hashes; what has none, or comes from an address, cannot be locked."""
    a, b = "a" * 64, "b" * 64
    text = f"# made by\nidna==2.10 \\\n    --hash=sha256:{b} \\\n    --hash=sha256:{a}\nsix==1 --hash=sha256:{a}\n"
    assert read_compiled(text) == (Locked("idna", "2.10", (a, b)), Locked("six", "1", (a,)))
    for bad in ("idna==2.10\n", f"idna @ file:///x --hash=sha256:{a}\n", f"idna==2.10 --hash=sha256:{a} -e .\n"):
        with pytest.raises(PackagingError):
            read_compiled(bad)


# --- where distributions come from ----------------------------------------------------------------------------------


def pip_file(folder: Path, text: str) -> dict[str, str]:
    (folder / "pip").mkdir(exist_ok=True)
    (folder / "pip" / "pip.conf").write_text(textwrap.dedent(text))
    return {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CONFIG_DIRS": str(folder / "none")}


def test_the_index_of_pip_is_the_installers(tmp_path: Path) -> None:
    """What pip's files and variables say of indexes, certificates and wheels is said to uv in its words."""
    given = pip_file(
        tmp_path,
        """
        [global]
        index-url = https://index.test/simple
        extra_index_url =
            file:///a/simple
            file:///b/simple
        find-links = /wheels /more
        constraint = /c.txt
        [install]
        trusted-host = index.test
        """,
    )
    made = installer.environment(given | {"PIP_CERT": "/ca.pem", "VIRTUAL_ENV": "/v", "PYTHONPATH": "/p"})
    assert made["UV_DEFAULT_INDEX"] == "https://index.test/simple"
    assert made["UV_INDEX"] == "file:///a/simple file:///b/simple"
    assert made["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert made["UV_FIND_LINKS"] == "/wheels,/more"
    assert made["UV_INSECURE_HOST"] == "index.test"
    assert made["SSL_CERT_FILE"] == "/ca.pem"
    assert "UV_CONSTRAINT" not in made
    assert not {"VIRTUAL_ENV", "PYTHONPATH"} & set(made)
    assert installer.environment(given, constrained=True)["UV_CONSTRAINT"] == "/c.txt"


def test_variables_go_before_files(tmp_path: Path) -> None:
    """As with pip: a variable, then the file of the user, then that of the machine."""
    given = pip_file(tmp_path, "[global]\nindex-url = https://file.test/\n")
    assert installer.environment(given)["UV_DEFAULT_INDEX"] == "https://file.test/"
    assert (
        installer.environment(given | {"PIP_INDEX_URL": "https://own.test/"})["UV_DEFAULT_INDEX"] == "https://own.test/"
    )
    off = given | {"PIP_CONFIG_FILE": os.devnull}
    assert "UV_DEFAULT_INDEX" not in installer.environment(off)


def test_who_has_told_uv_itself_is_heard(tmp_path: Path) -> None:
    """Where uv has settings of its own, by variable or by file, those of pip are not put over them."""
    given = pip_file(tmp_path, "[global]\nindex-url = https://file.test/\nextra-index-url = https://x.test/\n")
    made = installer.environment(given | {"UV_DEFAULT_INDEX": "https://uv.test/"})
    assert made["UV_DEFAULT_INDEX"] == "https://uv.test/"
    assert "UV_INDEX" not in made
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").write_text("")
    assert "UV_DEFAULT_INDEX" not in installer.environment(given)


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    """They are an error that names the file, and not passed over."""
    with pytest.raises(PackagingError, match=r"pip\.conf"):
        installer.environment(pip_file(tmp_path, "index-url = nowhere\n"))
