"""`rmbus pack` and `rmbus inspect`: packages made, proved, verified and shown on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Command

from rmbus.packaging import extract_archive_info
from rmbus.shipping.content import pack_content, read_content

pytestmark = pytest.mark.timeout(60)

FILES = {
    "edges.py": """
        import os
        import shapes.lines
        from importlib import import_module

        class Edges:
            def process(self, frame):
                return import_module(os.environ["PLUGIN"])

        def plain():
            return 1

        ready = Edges()
    """,
    "shapes/__init__.py": "",
    "shapes/lines.py": "from shapes import corners\n",
    "shapes/corners.py": "",
    "shapes/table.csv": "1,2\n",
    "shapes/token.secret": "",
    "plugins/blur.py": "import extra\n",
    "extra.py": "",
}


@pytest.fixture
def rmbus_(tmp_path: Path) -> Iterator[Command]:
    write(tmp_path, FILES)
    with Command(tmp_path) as command:
        yield command


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        indent = " " * 8 if text.startswith("\n") else ""
        file.write_text("\n".join(line.removeprefix(indent) for line in lines).lstrip("\n") + "\n")


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_class_of_a_file(rmbus_: Command, tmp_path: Path) -> None:
    """The report has sizes, the biggest files and warnings with file and line; the package holds what is needed."""
    told = ok(rmbus_("pack", "edges.py:Edges", "-o", "edges.zip"))
    info = extract_archive_info(tmp_path / "edges.zip")
    paths = ["edges.py", "shapes/__init__.py", "shapes/corners.py", "shapes/lines.py", "shapes/table.csv"]
    assert [file.path for file in info.manifest.files] == paths
    assert info.manifest.entry == "edges:Edges"
    assert f"edges:Edges: 5 files, {info.size} B, {info.address[:12]}" in told
    assert told.splitlines()[1].endswith(f"{info.biggest[0][1]} B  edges.py")
    assert "note: edges.py:7: import_module(os.environ['PLUGIN']) imports what is known only at run time" in told
    assert "note: shapes/token.secret is left out: it looks like a key" in told
    assert "written to edges.zip" in told


@pytest.mark.parametrize(
    ("entry", "means", "kind"),
    [
        ("edges.py", "edges", "files"),
        ("edges.py:plain", "edges:plain", "object"),
        ("edges.py:ready", "edges:Edges", "object"),
        ("edges:Edges", "edges:Edges", "object"),
        ("shapes/lines.py", "shapes.lines", "files"),
        ("shapes.lines:corners.__loader__", "_frozen_importlib_external:SourceFileLoader", "object"),
    ],
)
def test_entries(rmbus_: Command, entry: str, means: str, kind: str) -> None:
    """A file, a class, a function or an object of a file or a module; a file alone is not even imported."""
    told = json.loads(ok(rmbus_("pack", entry, "-o", "made.zip", "--json")))
    assert (told["entry"], told["kind"]) == (means, kind)


def test_file_alone_is_not_run(rmbus_: Command, tmp_path: Path) -> None:
    """Without a name nothing is imported, so that a script can be packaged."""
    write(tmp_path, {"script.py": "import shapes\nraise SystemExit('it was run')\n"})
    told = json.loads(ok(rmbus_("pack", "script.py", "-o", "made.zip", "--json")))
    assert [file["path"] for file in told["files"]] == ["script.py", "shapes/__init__.py", "shapes/table.csv"]


def test_options(rmbus_: Command) -> None:
    """Files, modules, requirements and exclusions are taken, each as often as it is given."""
    told = json.loads(
        ok(
            rmbus_(
                *("pack", "edges.py:Edges", "-o", "made.zip", "--json", "--exclude", "*.csv", "--exclude", "*.secret"),
                *("--files", "plugins.blur", "--requirement", "numpy>=1", "--requirement", "av"),
            )
        )
    )
    paths = [file["path"] for file in told["files"]]
    assert {"plugins/blur.py", "extra.py"} < set(paths)
    assert not [path for path in paths if path.startswith("shapes/t")]
    assert told["requirements"] == ["av", "numpy>=1"]
    assert told["file"] == "made.zip"
    assert [line for line in told["warnings"] if "run time" in line] == []


@pytest.mark.parametrize(
    ("arguments", "status", "telling"),
    [
        (["pack", "gone.py:X", "-o", "a.zip"], 2, "there is no file 'gone.py'"),
        (["pack", "gone.py", "-o", "a.zip"], 2, "there is no file 'gone.py'"),
        (["pack", "gone:X", "-o", "a.zip"], 2, "there is no module 'gone'"),
        (["pack", "edges", "-o", "a.zip"], 2, "write FILE.py, FILE.py:NAME or MODULE:NAME"),
        (["pack", "edges.py:Nothing", "-o", "a.zip"], 2, "no class, function or object 'Nothing'; it has Edges, plain"),
        (["pack", "edges.py:os", "-o", "a.zip"], 2, "no class, function or object 'os'"),
        (["pack", "no name:X", "-o", "a.zip"], 2, "'no name' is no name of a module"),
        (["pack", "edges.py", "-o", "edges.py"], 2, "would overwrite what is to be packaged"),
        (["pack", "edges.py"], 2, "-o"),
        (["pack", "broken.py:X", "-o", "a.zip"], 1, "broken.py cannot be imported: ValueError: no"),
        (["pack", "edges.py", "-o", "nowhere/a.zip"], 1, "No such file or directory"),
        (["pack", "edges.py", "-o", "a.zip", "--files", "missing.bin"], 1, "missing.bin was to be shipped, but is"),
        (["pack", "edges.py", "-o", "a.zip", "--files", "numpy"], 1, "numpy was to be shipped, but is an installed"),
        (["inspect", "gone.zip"], 2, "there is no file 'gone.zip'"),
        (["inspect", "edges.py"], 1, "the archive of a package is refused"),
    ],
)
def test_misuse_and_failure(rmbus_: Command, tmp_path: Path, arguments: list[str], status: int, telling: str) -> None:
    """What cannot be meant ends with 2, what fails with 1; both say why, in a line, and leave no file."""
    write(tmp_path, {"broken.py": "raise ValueError('no')"})
    done = rmbus_(*arguments)
    assert done.returncode == status
    assert telling in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*a.zip*"))


# --- proof ----------------------------------------------------------------------------------------------------------


def test_proof_of_what_stands_alone(rmbus_: Command, tmp_path: Path) -> None:
    """A package that holds all that it needs is proved; what its modules print does not come into the output."""
    write(tmp_path, {"shapes/corners.py": "print('corners are here')\n"})
    done = rmbus_("pack", "edges.py:Edges", "-o", "edges.zip", "--prove", "--json")
    assert json.loads(ok(done))["proved"] is True
    assert "corners are here" in done.stderr
    told = ok(rmbus_("pack", "edges.py:Edges", "-o", "edges.zip", "--prove"))
    assert "edges:Edges imports in a clean process" in told


def test_proof_sees_nothing_of_the_users_folder(rmbus_: Command, tmp_path: Path) -> None:
    """What is only found in the user's folder is missing there: named with module, importer, file and line."""
    write(
        tmp_path, {"late.py": "import importlib\nNAME = 'ex' + 'tra'\nimportlib.import_module(NAME)\nclass Late: ...\n"}
    )
    done = rmbus_("pack", "late.py:Late", "-o", "late.zip", "--prove")
    assert done.returncode == 1
    assert "module 'extra' is missing\n  imported by late at late.py:3" in done.stderr
    assert not (tmp_path / "late.zip").exists()
    ok(rmbus_("pack", "late.py:Late", "-o", "late.zip", "--prove", "--files", "extra"))


def test_proof_is_that_of_a_host(rmbus_: Command, tmp_path: Path) -> None:
    """Modules that only a host would have, and names that a node's process has in use, are told as by a host."""
    write(
        tmp_path, {"far.py": "import queue\nclass Far:\n    def f(self):\n        import only_there\n", "queue.py": ""}
    )
    done = rmbus_("pack", "far.py:Far", "-o", "far.zip", "--prove")
    assert done.returncode == 1
    assert "module 'only_there' is missing, which far imports at far.py:4" in done.stderr
    assert "module 'queue' would be hidden" in done.stderr


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("import sys, lib\nclass Far: ...\n", "ZeroDivisionError: division by zero\n  raised by lib at lib.py:2"),
        ("import sys, pathlib\nif 'far' in sys.argv[5]:\n    sys.exit(3)\nclass Far: ...\n", "SystemExit: 3"),
        (
            "import sys, os\nif len(sys.argv) > 5 and 'far' in sys.argv[5]:\n    os._exit(0)\nclass Far: ...\n",
            "status 0",
        ),
        (
            "import sys, os\nif len(sys.argv) > 5 and 'far' in sys.argv[5]:\n    os.abort()\nclass Far: ...\n",
            "status -6",
        ),
    ],
    ids=["an error", "an exit", "a silent end", "a crash"],
)
def test_proof_of_what_fails_on_import(rmbus_: Command, tmp_path: Path, text: str, telling: str) -> None:
    """Whatever the import does there, an error or the end of the process, is no proof, and is told with its place."""
    if "sys.argv[5]:" in text and "len(" not in text:
        text = text.replace("if 'far' in", "if len(sys.argv) > 5 and 'far' in")
    write(tmp_path, {"lib.py": "import sys\nif len(sys.argv) > 5 and 'far' in sys.argv[5]: 1 / 0\n", "far.py": text})
    write(
        tmp_path,
        {"maker.py": "from rmbus.packaging import package_object, prove\nimport far\nprove(package_object(far.Far))\n"},
    )
    done = rmbus_.script("maker.py")
    assert done.returncode == 1
    assert "PackagingError" in done.stderr
    assert telling in done.stderr


def test_proof_that_does_not_end(rmbus_: Command, tmp_path: Path) -> None:
    """An import that does not end is ended, with what it has started."""
    write(
        tmp_path,
        {
            "far.py": "import subprocess, sys, time\nif len(sys.argv) > 5 and 'far' in sys.argv[5]:\n"
            "    subprocess.Popen(['sleep', '100'])\n    time.sleep(100)\nclass Far: ...\n",
            "maker.py": "from rmbus.packaging import package_object, prove\nimport far\n"
            "prove(package_object(far.Far), timeout_s=3)\n",
        },
    )
    done = rmbus_.script("maker.py")
    assert "far:Far has not been imported within 3 s" in done.stderr


def test_proof_of_a_class_of_the_script(rmbus_: Command, tmp_path: Path) -> None:
    """Of a class of `__main__` the modules are proved that its script imports for it; the script is not run again."""
    text = (
        "import shapes.lines, sys\nfrom rmbus.packaging import package_object, prove\nprint('the script runs')\n"
        "class Far:\n    def process(self):\n        return shapes.lines\n"
        "package = package_object(Far())\nprove(package)\nprint('proved')\n"
    )
    write(tmp_path, {"script.py": text})
    done = rmbus_.script("script.py")
    assert done.stdout.split("\n") == ["the script runs", "proved", ""], done.stderr
    write(
        tmp_path, {"shapes/corners.py": "import sys\nif 'runtime' in sys.argv[0]:\n    import extra as a, gone_too\n"}
    )
    done = rmbus_.script("script.py")
    assert "module 'gone_too' is missing\n  imported by shapes.corners at shapes/corners.py:3" in done.stderr


# --- inspect --------------------------------------------------------------------------------------------------------


def test_inspect(rmbus_: Command, tmp_path: Path) -> None:
    """Manifest, hashes, needs, requirements, Python and address are shown, for people and for programs."""
    write(tmp_path, {"far.py": "import numpy\nclass Far: ...\n"})
    made = json.loads(ok(rmbus_("pack", "far.py:Far", "-o", "far.zip", "--requirement", "numpy>=1", "--json")))
    told = json.loads(ok(rmbus_("inspect", "far.zip", "--json")))
    assert told == {key: value for key, value in made.items() if key not in ("file", "warnings", "proved")}
    shown = ok(rmbus_("inspect", "far.zip"))
    assert told["address"] in shown
    assert f"{told['files'][0]['sha256']}  far.py" in shown
    assert "numpy: far imports it at far.py:1" in shown
    assert "requirements  numpy>=1" in shown
    assert f"python        cpython-{sys.version_info[0]}.{sys.version_info[1]}\n" in shown


def test_inspect_verifies(rmbus_: Command, tmp_path: Path) -> None:
    """A package that was changed by a byte is refused, as by a host."""
    ok(rmbus_("pack", "edges.py:Edges", "-o", "edges.zip"))
    data = bytearray((tmp_path / "edges.zip").read_bytes())
    data[data.index(b"ready")] ^= 1
    (tmp_path / "edges.zip").write_bytes(data)
    done = rmbus_("inspect", "edges.zip")
    assert done.returncode == 1
    assert "checksum is wrong" in done.stderr


def test_inspect_of_somebody_elses(rmbus_: Command, tmp_path: Path) -> None:
    """A package of another Python is shown, and said to be refused; its texts do not get at the terminal."""
    import attrs

    ok(rmbus_("pack", "edges.py:Edges", "-o", "edges.zip"))
    manifest, files = read_content(memoryview((tmp_path / "edges.zip").read_bytes()))
    other = attrs.evolve(manifest, python="cpython-3.99", entry="m:\x1b[2J")
    (tmp_path / "other.zip").write_bytes(pack_content(other, {path: bytes(data) for path, data in files.items()}))
    shown = ok(rmbus_("inspect", "other.zip"))
    assert "cpython-3.99; a host that runs cpython-" in shown
    assert "\x1b" not in shown
    assert "m:\\x1b[2J" in shown
