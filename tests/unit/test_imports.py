"""The finder, on a tree that has every form of import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import grimp
import pytest

from rmbus.errors import PackagingError
from rmbus.shipping.imports import Closure, Root, find_imports
from rmbus.shipping.source import Reach, scan


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def find(folder: Path, *modules: str) -> Closure:
    path = [str(folder), *(entry for entry in sys.path if entry)]
    return find_imports([Root(module) for module in modules], path=path)


def shipped(closure: Closure) -> list[str]:
    return [file.path for file in closure.files]


TRICKY = {
    "entry.py": (
        "import os, json.decoder\n"
        "import numpy as np\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import only_types\n"
        "import plain.deep.leaf\n"
        "from members import chosen, an_attribute\n"
        "from stars import *\n"
        "class Edges:\n"
        "    import in_class\n"
        "    def process(self):\n"
        "        import in_method\n"
        "        from importlib import import_module as bring\n"
        "        bring('brought')\n"
        "        __import__('dunder.inner')\n"
        "        bring(self.plugin)\n"
        "try:\n    import fast_json\nexcept ImportError:\n    import slow_json\n"
        "try:\n    import missing_but_guarded\nexcept ImportError:\n    pass\n"
        "if __name__ == '__main__':\n    import only_as_script\n"
    ),
    "only_types.py": "",
    "only_as_script.py": "",
    "plain/__init__.py": "from plain import beside_init",
    "plain/beside_init.py": "",
    "plain/unused.py": "",
    "plain/deep/__init__.py": "",
    "plain/deep/leaf.py": "from . import sibling\nfrom .. import cousin\nfrom ..other.thing import name\n",
    "plain/deep/sibling.py": "from .leaf import nothing",
    "plain/cousin.py": "import plain.deep.leaf",
    "plain/other/__init__.py": "",
    "plain/other/thing.py": "name = 1",
    "members/__init__.py": "an_attribute = 1",
    "members/chosen.py": "",
    "members/not_chosen.py": "",
    "stars/__init__.py": "__all__ = ['shown']\n__all__ += ('also',)\nhidden = 1",
    "stars/shown.py": "",
    "stars/also.py": "",
    "stars/unseen.py": "",
    "in_class.py": "",
    "in_method.py": "import circle_a",
    "circle_a.py": "import circle_b",
    "circle_b.py": "import circle_a\nfrom spaced.part import value",
    "spaced/part.py": "from spaced import other_part\nfrom . import third_part\nvalue = 1",
    "spaced/other_part.py": "",
    "spaced/third_part.py": "",
    "brought.py": "",
    "dunder/__init__.py": "import importlib\nimportlib.import_module('.near', __package__)\n",
    "dunder/inner.py": "",
    "dunder/near.py": "",
    "fast_json.py": "",
    "slow_json.py": "",
}

NEEDED = sorted(
    set(TRICKY) - {"only_types.py", "only_as_script.py", "plain/unused.py", "members/not_chosen.py", "stars/unseen.py"}
)


def test_tricky_tree_is_found_whole(tmp_path: Path) -> None:
    """Every form of import is followed, and nothing else is taken along."""
    closure = find(write(tmp_path, TRICKY), "entry")
    assert shipped(closure) == NEEDED
    assert [(item.module, item.line, item.optional) for item in closure.external if item.importer == "entry"] == [
        ("missing_but_guarded", 22, True),
        ("numpy", 2, False),
    ]
    assert [item.module for item in closure.missing] == ["missing_but_guarded"]


def test_dynamic_imports_are_flagged(tmp_path: Path) -> None:
    """An import whose module is known only at run time is named with file and line."""
    closure = find(write(tmp_path, TRICKY), "entry")
    assert [(item.file, item.line, item.text) for item in closure.dynamic] == [("entry.py", 16, "bring(self.plugin)")]


@pytest.mark.parametrize(
    ("call", "flagged"),
    [
        ("import importlib\nimportlib.import_module(f'plugins.{1}')", True),
        ("import importlib.util as u\nu.spec_from_file_location('x', 'y.py')", True),
        ("import runpy\nrunpy.run_path('x.py')", True),
        ("__import__('sub')", False),
        ("import importlib\nimportlib.import_module('.sub', package='pkg')", False),
        ("import importlib\nimportlib.import_module('.sub', package=here)", True),
        ("import_module = print", False),
    ],
)
def test_calls_that_import(call: str, flagged: bool) -> None:
    """A call is flagged exactly if the module that it imports cannot be read off."""
    assert bool(scan(call.encode(), "x.py").dynamic) is flagged


def test_oracles_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a plain package, ruff's graph and grimp's find the same modules (each omits what it is known to omit)."""
    files = {f"pkg/{name}": text.replace("plain", "pkg.plain") for name, text in TRICKY.items() if "plain/" in name}
    files |= {"pkg/__init__.py": "", "pkg/start.py": "import pkg.plain.deep.leaf\ndef f():\n    from pkg import late\n"}
    files |= {"pkg/late.py": "from .plain import unused", "pkg/never.py": ""}
    write(tmp_path, files)
    ours = set(shipped(find(tmp_path, "pkg.start")))

    ruff = [sys.executable, "-m", "ruff", "analyze", "graph", "--preview", "--quiet", "."]
    graph = json.loads(subprocess.run(ruff, cwd=tmp_path, check=True, capture_output=True, text=True).stdout)
    assert _reached({file: tuple(found) for file, found in graph.items()}, "pkg/start.py") == ours

    monkeypatch.syspath_prepend(str(tmp_path))
    built = grimp.build_graph("pkg", cache_dir=None)
    files_of = {name: _file(tmp_path, name) for name in built.modules}
    modules = {
        file: tuple(files_of[found] for found in built.find_modules_directly_imported_by(name))
        for name, file in files_of.items()
    }
    assert _reached(modules, "pkg/start.py") == ours


def _file(folder: Path, name: str) -> str:
    path = name.replace(".", "/")
    return f"{path}/__init__.py" if (folder / path).is_dir() else f"{path}.py"


def _reached(graph: Mapping[str, tuple[str, ...]], start: str) -> set[str]:
    """Follow an oracle's graph; both leave out that a module's packages are imported before it."""
    seen: set[str] = set()
    pending = [start]
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += graph.get(name, ())
            parts = name.split("/")[:-1]
            pending += ["/".join([*parts[:length], "__init__.py"]) for length in range(1, len(parts) + 1)]
    return seen


def test_syntax_error_names_place_and_importer(tmp_path: Path) -> None:
    """A local module that is no Python is refused, with file, line and who imports it, however late that is."""
    write(tmp_path, {"entry.py": "\ndef f():\n    import broken\n", "broken.py": "a = 1\ndef (:\n"})
    with pytest.raises(PackagingError) as caught:
        find(tmp_path, "entry")
    assert f"{tmp_path}/broken.py:2:" in str(caught.value)
    assert f"entry imports it at {tmp_path}/entry.py:3" in str(caught.value)


def test_zero_byte_is_refused(tmp_path: Path) -> None:
    """A file with a zero byte is no Python either."""
    (tmp_path / "entry.py").write_bytes(b"a = 1\0")
    with pytest.raises(PackagingError, match="entry"):
        find(tmp_path, "entry")


def test_missing_eager_import_is_refused(tmp_path: Path) -> None:
    """A module that is found nowhere and is imported at once is an error with module, importer, file and line."""
    write(tmp_path, {"entry.py": "import middle\n", "middle.py": "x = 1\nimport nowhere_to_be_found\n"})
    with pytest.raises(PackagingError, match=r"'nowhere_to_be_found' .* middle imports it at .*middle\.py:2"):
        find(tmp_path, "entry")


def test_missing_lazy_import_is_kept(tmp_path: Path) -> None:
    """What is imported unguarded in a method may exist on the host alone, also through a module reached lazily."""
    write(
        tmp_path, {"entry.py": "def f():\n    import host_only\n    import middle\n", "middle.py": "import host_too\n"}
    )
    closure = find(tmp_path, "entry")
    assert [(item.module, item.optional) for item in closure.missing] == [("host_only", False), ("host_too", False)]
    assert closure.missing == closure.external


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    import gone\nexcept ModuleNotFoundError:\n    pass",
        "try:\n    import gone\nexcept (ValueError, ImportError):\n    pass",
        "try:\n    import gone\nexcept:\n    pass",
        "import contextlib\nwith contextlib.suppress(ImportError):\n    import gone",
        "import sys\nif sys.platform == 'win32':\n    import gone",
        "try:\n    import json\nexcept ImportError:\n    import gone",
        "import sys\nif sys.argv:\n    import gone",
    ],
)
def test_guarded_imports_are_optional(tmp_path: Path, text: str) -> None:
    """A guarded import, one for another platform, or one under a condition that is open may fail on the host."""
    closure = find(write(tmp_path, {"entry.py": text}), "entry")
    assert [(item.module, item.optional) for item in closure.missing] == [("gone", True)]


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    import gone\nexcept ValueError:\n    pass",
        "try:\n    import gone\nfinally:\n    pass",
        "import sys\nif sys.version_info >= (3, 8):\n    import gone",
        "from here import *\nfrom here.gone import x",
    ],
)
def test_unguarded_imports_are_not_optional(tmp_path: Path, text: str) -> None:
    """What only looks like a guard is none."""
    write(tmp_path, {"entry.py": text, "here/__init__.py": ""})
    with pytest.raises(PackagingError, match="gone"):
        find(tmp_path, "entry")


def test_other_platforms_modules_are_optional(tmp_path: Path) -> None:
    """What is imported for one platform need not be on the host, even if it is here; under another `if` it must be."""
    text = "import sys\nif sys.platform == 'x':\n    import attrs\nelif sys.argv:\n    import msgpack\n"
    text += "if sys.argv:\n    import zmq\n"
    closure = find(write(tmp_path, {"entry.py": text}), "entry")
    assert [(item.module, item.optional) for item in closure.external] == [
        ("attrs", True),
        ("msgpack", True),
        ("zmq", False),
    ]


def test_old_version_branch_is_skipped(tmp_path: Path) -> None:
    """A branch for another Python version is not looked at."""
    text = "import sys\nif sys.version_info < (3, 8):\n    import gone\nelse:\n    import here\n"
    closure = find(write(tmp_path, {"entry.py": text, "here.py": ""}), "entry")
    assert shipped(closure) == ["entry.py", "here.py"]
    assert not closure.missing


def test_guard_holds_along_the_chain(tmp_path: Path) -> None:
    """What a guarded module imports may be missing: the guard of the outer import catches that."""
    text = "try:\n    import middle\nexcept ImportError:\n    pass"
    closure = find(write(tmp_path, {"entry.py": text, "middle.py": "import gone\n"}), "entry")
    assert shipped(closure) == ["entry.py", "middle.py"]
    assert closure.missing[0].optional


def test_submodule_missing_from_own_package(tmp_path: Path) -> None:
    """A shipped package cannot gain a module on the host: the missing one is an error even if imported late."""
    write(tmp_path, {"entry.py": "def f():\n    import pkg.gone\n", "pkg/__init__.py": ""})
    with pytest.raises(PackagingError, match="package 'pkg' has no such module"):
        find(tmp_path, "entry")


def test_relative_import_out_of_the_package(tmp_path: Path) -> None:
    """A relative import beyond the top is an error with its place."""
    write(tmp_path, {"pkg/__init__.py": "", "pkg/a.py": "from .. import b\n"})
    with pytest.raises(PackagingError, match=r"pkg/a\.py:1"):
        find(tmp_path, "pkg.a")


def test_file_that_shadows_the_standard_library(tmp_path: Path) -> None:
    """A local file with the name of a standard module is what Python would import: it is shipped, and reported."""
    closure = find(write(tmp_path, {"entry.py": "import os\nimport queue\n", "queue.py": "", "os.py": ""}), "entry")
    assert shipped(closure) == ["entry.py", "queue.py"]  # os is imported by the interpreter before any path is searched
    assert [(item.module, item.importer, item.line, item.shipped) for item in closure.shadows] == [
        ("queue", "entry", 2, True)
    ]


def test_namespace_package_across_folders(tmp_path: Path) -> None:
    """The portions of a namespace package are put together in the package."""
    write(tmp_path, {"one/space/a.py": "from space.sub import b\n", "two/space/sub/b.py": ""})
    closure = find_imports([Root("space.a")], path=[str(tmp_path / "one"), str(tmp_path / "two")])
    assert shipped(closure) == ["space/a.py", "space/sub/b.py"]


def test_names_limit_what_a_script_needs() -> None:
    """Of a script only what the named class uses is needed; its other imports, and their absence, are of no concern."""
    text = (
        "import matplotlib\nimport cv2 as cv\nfrom lib import used, unused\nLIMIT = used(3)\n"
        "def helper():\n    import scipy\n    return cv\n"
        "class Edges:\n    def process(self):\n        return helper(), LIMIT\n"
        "def main():\n    import tkinter\n"
        "if __name__ == '__main__':\n    import guarded\n    def helper_two():\n        import late\n"
        "class Second:\n    def process(self):\n        return helper_two()\n"
    )
    imports = scan(text.encode(), "x.py", names=["Edges", "Second"], imported=False).imports
    reach = {(item.module, *item.names): item.reach for item in imports}
    assert reach == {
        ("matplotlib",): Reach.OPTIONAL,
        ("cv2",): Reach.EAGER,
        ("lib", "used"): Reach.EAGER,
        ("lib", "unused"): Reach.OPTIONAL,
        ("scipy",): Reach.LAZY,
        ("tkinter",): Reach.OPTIONAL,
        ("guarded",): Reach.OPTIONAL,
        ("late",): Reach.LAZY,
    }


def test_names_limit_what_late_imports_count() -> None:
    """Of an imported module all its own imports count, but in functions only those that the class can come to."""
    text = (
        "import eager\n"
        "class Edges:\n    size = default()\n    def process(self):\n        import used\n        return helper()\n"
        "def helper():\n    import used_by_helper\n"
        "def default():\n    import used_on_import\n"
        "def decorate(f):\n    import used_by_decorator\n    return f\n"
        "@decorate\ndef main():\n    import tkinter\n"
        "def registered():\n    import used_by_table\n"
        "TABLE = [registered]\n"
        "class Other:\n    import eager_too\n    def process(self):\n        import unused\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    imports = scan(text.encode(), "x.py", names=["Edges"]).imports
    reach = {item.module: item.reach for item in imports}
    late = {name: Reach.LAZY for name in reach if name.startswith("used")}
    assert reach == {
        **late,
        "eager": Reach.EAGER,
        "eager_too": Reach.EAGER,
        "tkinter": Reach.OPTIONAL,
        "unused": Reach.OPTIONAL,
    }
    assert len(late) == 5


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    """What is remembered of a file is forgotten when the file changes."""
    write(tmp_path, {"entry.py": "import a\n", "a.py": "", "b.py": ""})
    assert shipped(find(tmp_path, "entry")) == ["a.py", "entry.py"]
    write(tmp_path, {"entry.py": "import a, b\n"})
    assert shipped(find(tmp_path, "entry")) == ["a.py", "b.py", "entry.py"]


def test_own_package_is_never_shipped(tmp_path: Path) -> None:
    """Neither rmbus nor installed modules are shipped; installed ones are named once for each importer."""
    closure = find(write(tmp_path, {"entry.py": "import rmbus.errors\nimport attrs\nimport attrs.filters\n"}), "entry")
    assert shipped(closure) == ["entry.py"]
    assert [item.module for item in closure.external] == ["attrs", "attrs.filters"]
