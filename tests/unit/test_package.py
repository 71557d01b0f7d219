"""The packager: what is in a package, that it is the same on every machine, and what is refused."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmbus.errors import MalformedFrame, PackagingError, ProtocolError, TooLarge, UnsupportedVersion
from rmbus.packaging import extract_archive_info, package_files, package_object
from rmbus.protocol import manifest as manifests
from rmbus.protocol.manifest import FileEntry, Manifest, Need, check_path, decode_manifest
from rmbus.shipping import archive, datafiles
from rmbus.shipping import package as packages
from rmbus.shipping.archive import read_archive, write_archive
from rmbus.shipping.content import pack_content, read_content

FILES = {
    "shapes_entry.py": "import shapes_lib\nclass Edges:\n    size = 3\n    def process(self):\n        return self\n",
    "shapes_lib/__init__.py": "from shapes_lib.inner import x\n",
    "shapes_lib/inner.py": "x = 1\n",
    "shapes_lib/table.csv": "1,2\n",
    "shapes_lib/models/deep/net.bin": "weights",
    "shapes_lib/other/__init__.py": "",
    "shapes_lib/other/not_reached.txt": "",
    "shapes_lib/__pycache__/inner.pyc": "",
    "shapes_lib/.env": "TOKEN=1",
    "shapes_lib/.git/config": "",
    "shapes_lib/node_modules/a.js": "",
    "shapes_lib/env/pyvenv.cfg": "",
    "shapes_lib/env/lib.txt": "",
    "shapes_lib/server.pem": "",
    "shapes_lib/id_rsa": "",
    "beside.txt": "",
}

SHIPPED = [
    "shapes_entry.py",
    "shapes_lib/__init__.py",
    "shapes_lib/inner.py",
    "shapes_lib/models/deep/net.bin",
    "shapes_lib/table.csv",
]


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module `shapes_entry`, imported from a folder that is then forgotten."""
    write(tmp_path, FILES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("shapes_entry")
    for name in [name for name in sys.modules if name.startswith("shapes_")]:
        del sys.modules[name]


def paths(manifest: Manifest) -> list[str]:
    return [file.path for file in manifest.files]


def test_object_ships_its_whole_tree(entry: ModuleType) -> None:
    """An instance, its class and its file give the same code: modules, packages, and the data files within them."""
    package = package_object(entry.Edges())
    assert paths(package.manifest) == SHIPPED
    assert package.manifest.entry == "shapes_entry:Edges"
    assert package_object(entry.Edges).address == package.address
    by_file = package_files([str(entry.__file__)])
    assert by_file.manifest.files == package.manifest.files


def test_secrets_are_left_out_and_named(entry: ModuleType) -> None:
    """Keys are left out with a warning, hidden files and left-overs without one."""
    warnings = package_object(entry.Edges).warnings
    assert [text.split()[0] for text in warnings] == ["shapes_lib/id_rsa", "shapes_lib/server.pem"]


def test_address_is_of_the_code_alone(entry: ModuleType) -> None:
    """State changes nothing; one byte of source changes the address."""
    plain, heavy = entry.Edges(), entry.Edges()
    heavy.numbers = list(range(1000))
    package = package_object(plain)
    assert package_object(heavy).address == package.address
    assert package_object(heavy).data == package.data
    Path(str(entry.__file__)).write_text(FILES["shapes_entry.py"] + "# a comment\n")
    assert package_object(plain).address != package.address


def test_archive_is_a_plain_zip(entry: ModuleType) -> None:
    """Any zip tool reads a package: the manifest, and the files under code/."""
    package = package_object(entry.Edges)
    with zipfile.ZipFile(io.BytesIO(package.data)) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == [*(f"code/{path}" for path in SHIPPED), "manifest.json"]
        assert hashlib.sha256(opened.read("manifest.json")).hexdigest() == package.address
        assert opened.read("code/shapes_lib/table.csv") == b"1,2\n"


def test_processes_agree_on_every_byte(tmp_path: Path) -> None:
    """Two processes with different hash seeds, folders and file times make the same bytes."""
    results: set[bytes] = set()
    for seed in ("1", "2", "3"):
        folder = write(tmp_path / seed, FILES)
        (folder / "shapes_lib/inner.py").chmod(0o600 if seed == "1" else 0o755)
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "import shapes_entry; from rmbus.packaging import package_object\n"
            "package = package_object(shapes_entry.Edges()); print(package.address, package.data.hex())"
        )
        command = [sys.executable, "-c", code, str(folder)]
        results.add(subprocess.run(command, env={"PYTHONHASHSEED": seed}, check=True, capture_output=True).stdout)
    assert len(results) == 1


def test_lone_module_takes_what_it_names(tmp_path: Path) -> None:
    """Beside a module outside any package lies anything: only what the module names and may reach is shipped."""
    text = (
        "from pathlib import Path\nhere = Path(__file__).parent\n"
        "a = here / 'labels.txt'\nb = list(here.glob('*.json'))\nc = here / 'models' / 'net.bin'\n"
        "d = '../outside.txt', '/etc/passwd', '.', '', '.env', 'key.pem', 'absent.txt', '**/*'\n"
    )
    files = {"lone.py": text, "labels.txt": "", "a.json": "", "b.json": "", "models/net.bin": "", "film.mp4": ""}
    write(tmp_path / "home", {**files, ".env": "", "key.pem": "", "notes/film.mp4": ""})
    write(tmp_path, {"outside.txt": ""})
    package = package_files([tmp_path / "home/lone.py"])
    assert paths(package.manifest) == ["a.json", "b.json", "labels.txt", "lone.py", "models/net.bin"]


def test_module_that_does_not_look_beside_itself(tmp_path: Path) -> None:
    """A text that happens to be a file's name takes nothing along if the module never looks at its own folder."""
    write(tmp_path, {"lone.py": "a = open('labels.txt')", "labels.txt": ""})
    assert paths(package_files([tmp_path / "lone.py"]).manifest) == ["lone.py"]


def test_resources_of_a_named_package(tmp_path: Path) -> None:
    """A package that is only named to importlib.resources is shipped with its files."""
    text = "from importlib import resources\ndef f():\n    return resources.files('assets.fonts')\n"
    write(
        tmp_path, {"lone.py": text, "assets/__init__.py": "", "assets/fonts/__init__.py": "", "assets/fonts/a.ttf": ""}
    )
    found = paths(package_files([tmp_path / "lone.py"]).manifest)
    assert found == ["assets/__init__.py", "assets/fonts/__init__.py", "assets/fonts/a.ttf", "lone.py"]


def test_declared_files(tmp_path: Path, entry: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declared files and folders keep their path below the module's folder, or come to the top."""
    monkeypatch.chdir("/")
    write(tmp_path, {"extra/one.txt": "", "extra/.env": "", "extra/tool.py": "", "extra/key.pem": ""})
    elsewhere = write(tmp_path / "elsewhere", {"deep/model.bin": "x"})
    package = package_object(entry.Edges, ["extra", elsewhere / "deep/model.bin", "beside.txt", "extra/key.pem"])
    more = set(paths(package.manifest)) - set(SHIPPED)
    assert more == {"extra/one.txt", "extra/tool.py", "elsewhere/deep/model.bin", "beside.txt", "extra/key.pem"}
    with pytest.raises(PackagingError, match=r"nowhere\.bin was to be shipped"):
        package_object(entry.Edges, ["nowhere.bin"])


def test_declared_file_from_outside(tmp_path: Path) -> None:
    """A declared file that lies outside the module's folder comes to the top, under its name."""
    write(tmp_path, {"home/lone.py": "", "far/model.bin": ""})
    assert paths(package_files([tmp_path / "home/lone.py"], [tmp_path / "far/model.bin"]).manifest) == [
        "lone.py",
        "model.bin",
    ]


def test_two_files_for_one_path(tmp_path: Path) -> None:
    """Two different files cannot lie at one path."""
    write(tmp_path, {"home/lone.py": "", "a/model.bin": "", "b/model.bin": ""})
    with pytest.raises(PackagingError, match=r"model\.bin"):
        package_files([tmp_path / "home/lone.py"], [tmp_path / "a/model.bin", tmp_path / "b/model.bin"])


@pytest.mark.parametrize("pattern", ["models", "*.bin", "shapes_lib/models/*", "models/"])
def test_exclude_patterns(entry: ModuleType, pattern: str) -> None:
    """A pattern leaves out whole paths, or any part of a path."""
    found = paths(package_object(entry.Edges, exclude_patterns=[pattern]).manifest)
    assert found == [path for path in SHIPPED if "models" not in path]


def test_requirements_are_in_the_address(entry: ModuleType) -> None:
    """Requirements are kept sorted, and make another package."""
    package = package_object(entry.Edges, pip_requirements=["scipy", "attrs", "scipy"])
    assert package.manifest.requirements == ("attrs", "scipy")
    assert package.address != package_object(entry.Edges).address


def test_link_that_leads_out_is_left_out(tmp_path: Path, entry: ModuleType) -> None:
    """A link within a package to a file outside it is not followed, and is named."""
    (tmp_path / "shapes_lib/link.txt").symlink_to("/etc/hostname")
    package = package_object(entry.Edges)
    assert paths(package.manifest) == SHIPPED
    assert any("link.txt" in text and "leads out" in text for text in package.warnings)


def test_limits(entry: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large data file is left out with a warning; too much altogether is refused with the biggest files named."""
    monkeypatch.setattr(datafiles, "MAX_DATA_FILE_BYTES", 5)
    package = package_object(entry.Edges)
    assert any("net.bin is left out" in text and "declare it" in text for text in package.warnings)
    monkeypatch.setattr(packages, "MAX_FILES", 2)
    with pytest.raises(PackagingError, match=r"(?s)would have 4 files .* shapes_entry\.py"):
        package_object(entry.Edges)


def test_folder_of_too_many_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose folder holds a data set is shipped without it, with a warning rather than a refusal."""
    monkeypatch.setattr(datafiles, "MAX_FOLDER_FILES", 3)
    write(tmp_path, {"lone.py": "import few, many\n", "few/__init__.py": "", "many/__init__.py": "", "few/1.txt": ""})
    write(tmp_path, {f"many/{number}.png": "" for number in range(5)})
    package = package_files([tmp_path / "lone.py"])
    assert paths(package.manifest) == ["few/1.txt", "few/__init__.py", "lone.py", "many/__init__.py"]
    assert package.warnings == (
        "many is left out: it has more than 3 data files or 128 MiB of them; declare those that the host needs",
    )


class OfThisTest:
    def process(self) -> object:
        from rmbus.packaging import ArchiveInfo

        return ArchiveInfo


def test_class_of_a_test_module() -> None:
    """A class of a module that was imported in a way of its own is shipped with that module's file."""
    package = package_object(OfThisTest())
    name = OfThisTest.__module__.replace(".", "/")
    assert f"{name}.py" in paths(package.manifest)
    assert {need.module.partition(".")[0] for need in package.manifest.needs} == {"hypothesis", "pytest"}


def test_module_under_another_name_than_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that was loaded from a file by hand is shipped under the name that it goes by."""
    write(tmp_path, {"some.old-name.py": "class A:\n    def f(self):\n        import json\n"})
    spec = importlib.util.spec_from_file_location("by-hand", tmp_path / "some.old-name.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "by-hand", module)
    spec.loader.exec_module(module)
    assert paths(package_object(module.A()).manifest) == ["by-hand.py"]


def test_compiled_module_is_shipped_with_a_warning(tmp_path: Path) -> None:
    """A compiled module of the user's own travels as it is; that it fits like machines only is said."""
    suffix = EXTENSION_SUFFIXES[0]
    write(tmp_path, {"lone.py": "import fast\n", f"fast{suffix}": "\x7fELF"})
    package = package_files([tmp_path / "lone.py"])
    assert paths(package.manifest) == [f"fast{suffix}", "lone.py"]
    assert package.warnings == (f"fast{suffix} is compiled for linux; a host of another kind cannot import it",)


def test_own_classes_need_no_code() -> None:
    """A class of rmbus or of an installed distribution is on the host already: the package holds nothing."""
    for cls in (FileEntry, zipfile.ZipFile, io.BytesIO):
        package = package_object(cls)
        assert package.manifest.files == ()
        assert package.manifest.needs == ()


class _Finder:
    """Finds one package as the finders of editable installs do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != "edited_pkg":
            return None
        location = self._folder / "src/__init__.py"
        return importlib.util.spec_from_file_location(name, location, submodule_search_locations=[str(location.parent)])


def test_editable_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed in editable form lies in the user's own folder, and is shipped."""
    write(tmp_path, {"edited_entry.py": "class A:\n    def f(self):\n        import edited_pkg.part\n"})
    write(tmp_path, {"src/__init__.py": "", "src/part.py": ""})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, _Finder(tmp_path)])
    module = importlib.import_module("edited_entry")
    assert paths(package_object(module.A()).manifest) == [
        "edited_entry.py",
        "edited_pkg/__init__.py",
        "edited_pkg/part.py",
    ]


def test_report_names_what_matters(tmp_path: Path) -> None:
    """The report for a person has sizes, the biggest files, what the host needs and from what, and the warnings."""
    write(tmp_path, {"lone.py": "import numpy, importlib\nimportlib.import_module(x)\n", "helper.py": "x" * 10})
    report = package_files([tmp_path / "lone.py"]).report()
    for part in ("lone: 1 files", "lone.py", "needs numpy (here from numpy)", "lone.py:2: importlib.import_module(x)"):
        assert part in report


def test_archive_info(tmp_path: Path, entry: ModuleType) -> None:
    """What is in a package can be read from its bytes or its file, and is verified."""
    package = package_object(entry.Edges)
    (tmp_path / "p.zip").write_bytes(package.data)
    info = extract_archive_info(tmp_path / "p.zip")
    assert info == extract_archive_info(package.data)
    assert info.manifest == package.manifest
    assert info.address == package.address
    assert info.biggest[0][0] == "shapes_entry.py"
    with pytest.raises(MalformedFrame):
        extract_archive_info(package.data[:-1])
    with pytest.raises(PackagingError, match="cannot be read"):
        extract_archive_info(tmp_path / "absent.zip")


def test_not_a_python_file(tmp_path: Path) -> None:
    """Only Python files can be an entry, and there has to be one."""
    with pytest.raises(PackagingError, match="no Python file"):
        package_files([tmp_path / "absent.py"])
    with pytest.raises(PackagingError, match="no file"):
        package_files([])


# --- the manifest ---------------------------------------------------------------------------------------------------

LOCK = FileEntry(".rmbus/requirements.lock", "1" * 64, 9)
ENTRY = FileEntry("a/b.py", "0" * 64, 3)
GOOD = Manifest("m:C", "cpython-3.11", (LOCK, ENTRY), (Need("cv2", "m", "m.py", 3),), ("attrs",), "1" * 64)


def test_manifest_round_trip() -> None:
    """The canonical form decodes to the same value, and the address is a fixed function of it."""
    assert decode_manifest(GOOD.encode()) == GOOD
    assert GOOD.address == "5523e9d6a096271778787c92d8919ef148c4cb1e64e43bcafe455b4868f893e1"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a/b.py", b"/a/b.py"),
        (b"a/b.py", b"../b.py"),
        (b"a/b.py", b"a//b.py"),
        (b"a/b.py", b"./b.py"),
        (b"a/b.py", b"a/.."),
        (b"a/b.py", b"c:/b.py"),
        (b"a/b.py", b"a\\\\b.py"),
        (b"a/b.py", b"a/\\u0000"),
        (b"a/b.py", b"a/\\ud800"),
        (b"a/b.py", b"a/" + b"x" * 300),
        (b'"files":', b'"files": '),
        (b'"version":1', b'"version":1,"more":2'),
        (b",3]]", b",3.0]]"),
        (b",3]]", b",-3]]"),
        (b",3]]", b",true]]"),
        (b",3]]", b"," + b"9" * 5000 + b"]]"),
        (b'"cpython-3.11"', b'"../3.11"'),
        (b'"kind":"object"', b'"kind":"other"'),
        (b'"entry":"m:C"', b'"entry":3'),
        (b'["attrs"]', b'["b","a"]'),
        (b"{", b"["),
        (b'"files":[', b'"files":' + b"[" * 100_000),
    ],
)
def test_bad_manifests_are_refused(old: bytes, new: bytes) -> None:
    """Unsafe paths, other types, unknown fields and other forms of the same value are refused."""
    assert old in GOOD.encode()
    with pytest.raises(MalformedFrame):
        decode_manifest(GOOD.encode().replace(old, new, 1))


def test_other_manifest_version() -> None:
    """A manifest of another version is named as that."""
    with pytest.raises(UnsupportedVersion, match="version 2"):
        decode_manifest(GOOD.encode().replace(b'"version":1', b'"version":2'))


def test_manifest_limits() -> None:
    """Too many files, too large files, and too long a manifest are each refused as too large."""
    many = tuple(FileEntry(f"{number:05}", "0" * 64, 0) for number in range(manifests.MAX_FILES + 1))
    with pytest.raises(TooLarge):
        Manifest("m:C", "cpython-3.11", many)
    with pytest.raises(TooLarge):
        Manifest("m:C", "cpython-3.11", (FileEntry("a", "0" * 64, manifests.MAX_FILE_BYTES + 1),))
    with pytest.raises(TooLarge):
        decode_manifest(b" " * (manifests.MAX_MANIFEST_BYTES + 1))


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a", "a"), ("b", "a")])
def test_files_are_sorted_and_apart(names: tuple[str, str]) -> None:
    """No two files have one path, none is also a folder, and they are in order."""
    with pytest.raises(MalformedFrame):
        Manifest("m:C", "cpython-3.11", tuple(FileEntry(name, "0" * 64, 0) for name in names))


@given(st.text())
def test_paths_that_pass_stay_below(path: str) -> None:
    """Whatever passes names a file below the folder that it is joined to."""
    try:
        check_path(path)
    except MalformedFrame:
        return
    assert Path("/top", path).resolve().is_relative_to("/top")
    assert not Path(path).is_absolute()


# --- the archive ----------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), st.binary(max_size=50), max_size=5)
)
def test_archive_round_trip(members: dict[str, bytes]) -> None:
    """Members come back as they were, and the bytes are a function of them alone."""
    data = write_archive(members)
    assert {name: bytes(view) for name, view in read_archive(memoryview(data)).items()} == members
    assert write_archive(dict(reversed(members.items()))) == data


SMALL = pack_content(
    Manifest("m:C", "cpython-3.11", (FileEntry("a.py", hashlib.sha256(b"x=1").hexdigest(), 3),)), {"a.py": b"x=1"}
)


@pytest.mark.parametrize("flip", [1, 0x20, 0x80])
def test_every_changed_byte_is_noticed(flip: int) -> None:
    """There is no byte of a package that could be another."""
    for place in range(len(SMALL)):
        data = bytearray(SMALL)
        data[place] ^= flip
        with pytest.raises(ProtocolError):
            read_content(memoryview(bytes(data)))


def _crafted(*members: tuple[bytes, bytes, int | None], between: bytes = b"", before_last: bytes = b"") -> bytes:
    """Build an archive whose headers are right one by one: name, content, and another place for the content."""
    body, directory = b"", b""
    for name, data, place in members:
        crc = zlib.crc32(data)
        body += before_last if (name, data, place) == members[-1] else b""
        offset = len(body) if place is None else place
        directory += archive._central(name, crc, len(data), offset) + name
        body += (archive._local(name, crc, len(data)) + name + data) if place is None else b""
    return body + between + directory + archive._end(len(members), len(directory), len(body) + len(between))


def test_crafted_archives_are_refused() -> None:
    """Members out of order, twice, one over another, or with bytes between them are refused; the plain form is not."""
    one, two = (b"a", b"1", None), (b"b", b"2", None)
    assert set(read_archive(memoryview(_crafted(one, two)))) == {"a", "b"}
    for data in (
        _crafted(two, one),
        _crafted(one, one),
        _crafted(one, (b"a", b"1", 0)),
        _crafted(one, two, between=b"hidden"),
        _crafted(one, (b"b", b"2", 10**6)),
        _crafted(one, two, before_last=b"hidden"),
        _crafted((b"\xff", b"", None)),
    ):
        with pytest.raises(MalformedFrame):
            read_archive(memoryview(data))


@given(st.binary(max_size=300), st.integers(0, len(SMALL)))
def test_no_bytes_upset_the_reader(junk: bytes, place: int) -> None:
    """Any bytes are read, or refused as what they are; bytes put into a package, before it or after it are refused."""
    for data in (junk, SMALL[:place] + junk, SMALL[:place] + junk + SMALL[place:]):
        if data != SMALL:
            with pytest.raises(ProtocolError):
                read_content(memoryview(data))


def _zip(names: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED, mode: int = 0o100644) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as target:
        for name, data in names.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type, info.create_system = mode << 16, method, 3
            target.writestr(info, data)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        _zip({"code/a.py": b"0" * 10_000_000, "manifest.json": b"{}"}, method=zipfile.ZIP_DEFLATED),
        _zip({"code/a.py": b"/etc/passwd", "manifest.json": b"{}"}, mode=0o120777),
        _zip({}),
        pack_content(Manifest("m:C", "cpython-3.11"), {"extra.py": b""}),
        pack_content(Manifest("m:C", "cpython-3.11", (FileEntry("a.py", "0" * 64, 0),)), {}),
        pack_content(Manifest("m:C", "cpython-3.11", (FileEntry("a.py", "0" * 64, 1),)), {"a.py": b"x"}),
        write_archive({"code/a.py": b""}),
    ],
    ids=["bomb", "link", "empty", "extra member", "member missing", "wrong hash", "no manifest"],
)
def test_hostile_archives_are_refused(data: bytes) -> None:
    """Compression, links, extra and missing members, and wrong hashes are refused with a reason."""
    with pytest.raises(ProtocolError):
        read_content(memoryview(data))


def test_too_many_members() -> None:
    """The number of members is held against the limit before they are read."""
    data = write_archive({f"{number:05}": b"" for number in range(manifests.MAX_FILES + 2)})
    with pytest.raises(TooLarge):
        read_archive(memoryview(data))
