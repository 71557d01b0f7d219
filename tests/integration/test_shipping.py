"""Shipping from one process to another that shares nothing with it but the package and the state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from rmbus.errors import PackagingError, UnsupportedVersion
from rmbus.protocol.manifest import Manifest, Need
from rmbus.shipping.load import check_python, prove, unpack
from rmbus.shipping.package import build_files
from rmbus.shipping.store import Store

SHIP = """
def ship(obj, out):
    import json, pathlib
    from rmbus.shipping import package, pickling
    made = package.build(obj)
    out = pathlib.Path(out)
    out.mkdir(exist_ok=True)
    (out / "package.zip").write_bytes(made.data)
    (out / "state").write_bytes(pickling.dumps(obj))
    print(json.dumps([made.address, [file.path for file in made.manifest.files], list(made.warnings)]))
"""

RECEIVE = """
import json, os, pathlib, sys
from rmbus.shipping.load import load
out = pathlib.Path(sys.argv[1])
fd = os.open(out / "package.zip", os.O_RDONLY)
manifest, obj = load(fd, pathlib.Path(sys.argv[2]), (out / "state").read_bytes())
print(json.dumps([manifest.address, eval(sys.argv[3], {"obj": obj, "sys": sys})]))
"""


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def run(command: list[str], *, cwd: Path | None = None, **environment: str) -> list[object]:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=15, check=False
    )
    assert done.returncode == 0, done.stderr
    result: list[object] = json.loads(done.stdout.splitlines()[-1])
    return result


def receive(out: Path, folder: Path, expression: str) -> list[object]:
    """Load in a clean interpreter, in another folder, with nothing but the installed rmbus on its path."""
    return run([sys.executable, "-I", "-c", RECEIVE, str(out), str(folder), expression], cwd=Path("/"))


LIBRARY = {
    "shapes/__init__.py": "",
    "shapes/lines.py": "from shapes import corners\nTHICK = 2\ndef trace(x):\n    return corners.find(x) + [THICK]\n",
    "shapes/corners.py": "def find(x):\n    from . import lines\n    return [x, lines.THICK]\n",
}

METHOD = (
    "    def process(self, x):\n"
    "        from shapes import lines\n"
    "        import shapes.corners\n"
    "        return [self.k, *lines.trace(x), __name__]\n"
)


def test_class_of_the_script(tmp_path: Path) -> None:
    """A class of `__main__` travels by value, its local package of two modules, imported late, as source."""
    text = f"{SHIP}\nimport sys\nclass Node:\n    k = 7\n{METHOD}\n"
    text += "if __name__ == '__main__':\n    ship(Node(), sys.argv[1])"
    write(tmp_path / "home", {**LIBRARY, "script.py": text})
    address, files, warnings = run([sys.executable, str(tmp_path / "home/script.py"), str(tmp_path / "out")])
    assert files == ["shapes/__init__.py", "shapes/corners.py", "shapes/lines.py"]
    assert warnings == []
    assert receive(tmp_path / "out", tmp_path / "there", "obj.process(5)") == [address, [7, 5, 2, 2, "__main__"]]


def test_script_is_never_run_again(tmp_path: Path) -> None:
    """A script with no `__main__` guard is not run on the other side, and reads its data file there."""
    text = (
        f"{SHIP}\nimport sys, pathlib\nprint('this script runs')\n"
        "class Node:\n    def process(self):\n"
        "        return pathlib.Path(__file__).with_name('labels.txt').read_text()\n"
        "ship(Node(), sys.argv[1])\n"
    )
    write(tmp_path / "home", {"script.py": text, "labels.txt": "cat", "film.mp4": ""})
    address, files, _ = run([sys.executable, str(tmp_path / "home/script.py"), str(tmp_path / "out")])
    assert files == ["labels.txt"]
    (tmp_path / "home/labels.txt").unlink()
    assert receive(tmp_path / "out", tmp_path / "there", "obj.process()") == [address, "cat"]


def test_class_of_a_local_module(tmp_path: Path) -> None:
    """A class of a module travels as source, by its name; the folder it came from is not needed."""
    write(
        tmp_path / "home",
        {**LIBRARY, "edges.py": f"class Node:\n    def __init__(self):\n        self.k = 1\n{METHOD}"},
    )
    code = f"{SHIP}\nimport sys; sys.path.insert(0, sys.argv[2])\nimport edges\nship(edges.Node(), sys.argv[1])"
    address, files, _ = run([sys.executable, "-c", code, str(tmp_path / "out"), str(tmp_path / "home")])
    assert files == ["edges.py", "shapes/__init__.py", "shapes/corners.py", "shapes/lines.py"]
    (tmp_path / "home").rename(tmp_path / "gone")
    there = tmp_path / "there"
    assert receive(tmp_path / "out", there, "[obj.process(5), sys.modules['edges'].__file__]") == [
        address,
        [[1, 5, 2, 2, "edges"], str(there / "edges.py")],
    ]


def test_module_run_with_m(tmp_path: Path) -> None:
    """In a module that is run by `python -m`, relative imports in methods go on working."""
    text = (
        f"{SHIP}\nimport sys\nfrom .near import NEAR\n"
        "class Node:\n    def process(self):\n        from .late import LATE\n        from . import near\n"
        "        return [NEAR, LATE, near.NEAR, __package__]\nship(Node(), sys.argv[1])\n"
    )
    write(tmp_path / "home", {"app/__init__.py": "", "app/tool.py": text})
    write(tmp_path / "home", {"app/near.py": "NEAR = 1", "app/late.py": "LATE = 2", "app/other.py": ""})
    address, files, _ = run([sys.executable, "-m", "app.tool", str(tmp_path / "out")], cwd=tmp_path / "home")
    assert files == ["app/__init__.py", "app/late.py", "app/near.py"]
    assert receive(tmp_path / "out", tmp_path / "there", "obj.process()") == [address, [1, 2, 1, "app"]]


def test_what_the_state_refers_to(tmp_path: Path) -> None:
    """Modules that only the object's values come from are shipped as well: classes, functions, lambdas, closures."""
    text = (
        f"{SHIP}\nimport sys, importlib\nbring = importlib.import_module\n"
        "class Node:\n    pass\n"
        "node = Node()\n"
        "node.part, node.call = bring('by' + '_class').Part(), bring('by' + '_lambda').twice\n"
        "ship(node, sys.argv[1])\n"
    )
    write(tmp_path / "home", {"script.py": text, "by_class.py": "class Part:\n    x = 1\n"})
    makes = "def make(k):\n    def f(n):\n        import late\n        return n * k\n    return f\ntwice = make(2)\n"
    write(tmp_path / "home", {"by_lambda.py": makes})
    write(tmp_path / "home", {"late.py": ""})
    address, files, _ = run([sys.executable, str(tmp_path / "home/script.py"), str(tmp_path / "out")])
    assert files == ["by_class.py", "by_lambda.py", "late.py"]
    assert receive(tmp_path / "out", tmp_path / "there", "[obj.part.x, obj.call(4)]") == [address, [1, 8]]


def test_class_typed_at_a_prompt(tmp_path: Path) -> None:
    """The local modules that a class without a text in any file imports are read from its compiled code."""
    write(tmp_path / "home", LIBRARY)
    code = f"{SHIP}\nimport sys\nclass Node:\n    k = 7\n{METHOD}\nship(Node(), sys.argv[1])"
    address, files, _ = run([sys.executable, "-c", code, str(tmp_path / "out")], cwd=tmp_path / "home")
    assert files == ["shapes/__init__.py", "shapes/corners.py", "shapes/lines.py"]
    assert receive(tmp_path / "out", tmp_path / "there", "obj.process(5)") == [address, [7, 5, 2, 2, "__main__"]]


def test_class_of_a_notebook_cell(tmp_path: Path) -> None:
    """A class of a notebook's cell is read from the text that the notebook keeps of it."""
    write(tmp_path / "home", LIBRARY)
    cell = f"import shapes.corners as c\nclass Node:\n    k = c.find(1)[0]\n{METHOD}"
    code = (
        f"{SHIP}\nimport sys, linecache\ncell = {cell!r}\nname = '<cell 1>'\n"
        "linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)\n"
        "exec(compile(cell, name, 'exec'))\nship(Node(), sys.argv[1])"
    )
    address, files, _ = run([sys.executable, "-c", code, str(tmp_path / "out")], cwd=tmp_path / "home")
    assert files == ["shapes/__init__.py", "shapes/corners.py", "shapes/lines.py"]
    assert receive(tmp_path / "out", tmp_path / "there", "obj.process(5)") == [address, [1, 5, 2, 2, "__main__"]]


def test_two_versions_of_one_module(tmp_path: Path) -> None:
    """Two clients with different code under one module's name each get their own, in processes side by side."""
    results: list[list[object]] = []
    for version in ("one", "two"):
        home = write(
            tmp_path / version, {"common.py": f"class Node:\n    def process(self):\n        return '{version}'\n"}
        )
        code = f"{SHIP}\nimport sys\nimport common\nship(common.Node(), sys.argv[1])"
        run([sys.executable, "-c", code, str(tmp_path / f"out_{version}")], cwd=home)
        results.append(receive(tmp_path / f"out_{version}", tmp_path / f"there_{version}", "obj.process()"))
    assert [result for _, result in results] == ["one", "two"]
    assert results[0][0] != results[1][0]


def test_shipped_module_goes_before_an_installed_one(tmp_path: Path) -> None:
    """A local module is used on the host even if a distribution of that name is installed there."""
    write(tmp_path / "home", {"sortedcontainers.py": "MINE = 5\n"})
    write(tmp_path / "home", {"edges.py": "import sortedcontainers\nclass Node:\n    x = sortedcontainers.MINE\n"})
    code = f"{SHIP}\nimport sys\nimport edges\nship(edges.Node(), sys.argv[1])"
    address, files, _ = run([sys.executable, "-c", code, str(tmp_path / "out")], cwd=tmp_path / "home")
    assert files == ["edges.py", "sortedcontainers.py"]
    assert receive(tmp_path / "out", tmp_path / "there", "obj.x") == [address, 5]


def test_second_run_has_the_same_address(tmp_path: Path) -> None:
    """Same code with another state is the same package; an edited local module is another one."""
    text = f"{SHIP}\nimport sys\nimport shapes.lines\nclass Node:\n    pass\n"
    text += "node = Node()\nnode.k = sys.argv[2:]\nship(node, sys.argv[1])\n"
    write(tmp_path / "home", {**LIBRARY, "script.py": text})
    command = [sys.executable, str(tmp_path / "home/script.py"), str(tmp_path / "out")]
    first = run(command)[0]
    assert run([*command, "another", "state"], PYTHONHASHSEED="7")[0] == first
    write(tmp_path / "home", {"shapes/lines.py": LIBRARY["shapes/lines.py"].replace("2", "3")})
    assert run(command)[0] != first


HALF = "class Node:\n    def f(self):\n        import half\n        half.x\n"
HOLDS_LOCK = "import threading\nclass Node:\n    def __init__(self):\n        self.a = [threading.Lock()]\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"edges.py": HALF, "half.py": "x = (\n"}, "half.py:1"),
        ({"edges.py": HOLDS_LOCK}, "self.a[0] (_thread.lock)"),
        ({"edges.py": HALF, "half.py": "import pkg.gone\n", "pkg/__init__.py": ""}, "half.py:1"),
    ],
    ids=["syntax error", "not picklable", "module missing from a package"],
)
def test_errors_come_before_anything_runs(tmp_path: Path, files: Mapping[str, str], expected: str) -> None:
    """What cannot be shipped is refused here, with attribute path, or file and line."""
    write(tmp_path, files)
    code = f"{SHIP}\nimport sys\nimport edges\nship(edges.Node(), sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, "out"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "PackagingError" in done.stderr
    assert expected in done.stderr
    assert not (tmp_path / "out").exists()


# --- the far side ---------------------------------------------------------------------------------------------------


def test_missing_modules_are_all_named(tmp_path: Path) -> None:
    """Before anything is imported, every module that is missing is named with its importer, file and line."""
    text = "def f():\n    import host_only_one\ndef g():\n    from host_only_two.sub import x\n"
    text += "def h():\n    import json, numpy\n"
    package = build_files([write(tmp_path, {"lone.py": text}) / "lone.py"])
    with pytest.raises(PackagingError) as caught:
        prove(package.manifest, tmp_path)
    assert "'host_only_one' is missing, which lone imports at lone.py:2" in str(caught.value)
    assert "'host_only_two.sub' is missing, which lone imports at lone.py:4" in str(caught.value)
    assert "numpy" not in str(caught.value)
    assert "install it" in str(caught.value)


def test_module_hidden_by_one_of_the_process(tmp_path: Path) -> None:
    """A shipped module whose name the process has in use already is an error, not silently the wrong code."""
    package = build_files([write(tmp_path, {"lone.py": "import queue\n", "queue.py": ""}) / "lone.py"])
    assert [file.path for file in package.manifest.files] == ["lone.py", "queue.py"]
    with pytest.raises(PackagingError, match=r"module 'queue' would be hidden by .*queue\.py.*rename it"):
        prove(package.manifest, tmp_path / "unpacked")


def test_other_python_is_refused() -> None:
    """A package of another minor version or implementation is refused, with both named."""
    ours = f"cpython-{sys.version_info.major}.{sys.version_info.minor}"
    check_python(Manifest("m:C", ours))
    for other in ("cpython-3.99", f"pypy-{sys.version_info.major}.{sys.version_info.minor}"):
        with pytest.raises(UnsupportedVersion, match=f"{other}; this host runs {ours}"):
            check_python(Manifest("m:C", other))


def test_unpack_needs_an_empty_folder(tmp_path: Path) -> None:
    """A package is not mixed with what lies in a folder."""
    store = Store(tmp_path / "store")
    package = build_files([write(tmp_path / "home", {"lone.py": "x = 1"}) / "lone.py"])
    store.put(package.address, 0, package.data, len(package.data))
    fd = store.open(package.address)
    assert unpack(fd, tmp_path / "there") == package.manifest
    assert (tmp_path / "there/lone.py").read_text() == "x = 1"
    with pytest.raises(PackagingError, match="not empty"):
        unpack(fd, tmp_path / "there")
    os.close(fd)


def test_proof_accepts_what_is_installed(tmp_path: Path) -> None:
    """Modules that are installed, imported already, or part of the standard library pass, without being imported."""
    needs = tuple(Need(name, "m", "m.py", 1) for name in ("attrs.filters", "json", "msgpack", "this"))
    prove(Manifest("m:C", "cpython-3.11", needs=needs), tmp_path)
    assert "this" not in sys.modules


@pytest.mark.bench
def test_speed_on_twenty_files(tmp_path: Path) -> None:
    """Finding and packing twenty files takes milliseconds."""
    files = {f"lib/m{number}.py": f"import json\nfrom lib import m{(number + 1) % 18}\n" * 10 for number in range(18)}
    write(tmp_path, {**files, "lib/__init__.py": "", "lone.py": "import lib.m0"})
    package, times = build_files([tmp_path / "lone.py"]), list[float]()
    for _ in range(10):
        start = time.perf_counter()
        package = build_files([tmp_path / "lone.py"])
        times.append(time.perf_counter() - start)
    print(f"first {times[0] * 1e3:.1f} ms, then {min(times[1:]) * 1e3:.1f} ms, {len(package.data)} bytes")
    assert len(package.manifest.files) == 20
