"""The test vectors are a part of the specification: they are read and written as they stand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from rmbus.errors import ProtocolError, UnsupportedVersion
from rmbus.protocol import lane, messages
from rmbus.protocol.topics import check_pattern, check_topic, matches
from rmbus.protocol.version import negotiate

ROOT = Path(__file__).parents[2]


def _load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rmbus_vectors", ROOT / "scripts" / "vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


vectors: Any = _load_script()
READERS = {
    "frames": vectors.read_frames,
    "identities": vectors.read_identities,
    "lane": vectors.read_lane,
    "grant": lambda parts: lane.unpack_grant(parts[0]),
    "control": vectors.read_control,
}


def cases(*names: str) -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}: {case.get('name', number)}"[:80])
        for name in names
        for number, case in enumerate(vectors.cases(name))
    ]


@pytest.mark.parametrize(("file", "case"), cases(*vectors.BOTH_WAYS))
def test_a_value_is_written_as_its_bytes(file: str, case: Any) -> None:
    """What this version writes is what the specification shows; a difference is a change of the protocol."""
    write, _ = vectors.BOTH_WAYS[file]
    assert vectors.to_json(write(vectors.from_json(case["value"]))) == case["parts"]


@pytest.mark.parametrize(("file", "case"), cases(*vectors.BOTH_WAYS))
def test_bytes_are_read_as_their_value(file: str, case: Any) -> None:
    """What the specification shows is read as the value that it shows."""
    _, read = vectors.BOTH_WAYS[file]
    assert vectors.to_json(read(vectors.parts_of(case), vectors.from_json(case["value"]))) == case["value"]


@pytest.mark.parametrize(("_file", "case"), cases("tolerated"))
def test_what_a_later_version_may_add_is_ignored(_file: str, case: Any) -> None:
    """Additions that the specification allows do not change what is read."""
    assert vectors.to_json(READERS[case["of"]](vectors.parts_of(case))) == case["value"]


@pytest.mark.parametrize(("_file", "case"), cases("refused"))
def test_what_breaks_the_specification_is_refused(_file: str, case: Any) -> None:
    """Each breach is refused, with the error that the specification names and with no other."""
    with pytest.raises(ProtocolError) as caught:
        READERS[case["of"]](vectors.parts_of(case))
    assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize(("_file", "case"), cases("topics"))
def test_names_of_topics(_file: str, case: Any) -> None:
    """A name is taken or refused as the specification says; each name is a pattern that matches itself."""
    if case["valid"]:
        assert check_topic(case["name"]) == case["name"]
        assert matches(check_pattern(case["name"]), case["name"])
    else:
        with pytest.raises(ProtocolError):
            check_topic(case["name"])


@pytest.mark.parametrize(("_file", "case"), cases("patterns"))
def test_patterns_over_topics(_file: str, case: Any) -> None:
    """A pattern matches as the specification says."""
    assert matches(check_pattern(case["pattern"]), check_topic(case["topic"])) is case["matches"]


@pytest.mark.parametrize("pattern", ["", "a b", "a/**/b", "**/a", "a*", "a//b", "..", "x" * 256, "*\n"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    """A star stands for whole segments, and two of them at the end alone."""
    with pytest.raises(ProtocolError):
        check_pattern(pattern)


@pytest.mark.parametrize(("_file", "case"), cases("versions"))
def test_the_version_that_two_peers_speak(_file: str, case: Any) -> None:
    """It is the highest that both know, whoever asks, or none."""
    ours, theirs = tuple(case["ours"]), tuple(case["theirs"])
    if case["speak"] is None:
        for one, other in ((ours, theirs), (theirs, ours)):
            with pytest.raises(UnsupportedVersion, match="speaks protocol versions"):
                negotiate(one, other)
    else:
        assert negotiate(ours, theirs) == negotiate(theirs, ours) == case["speak"]


def test_every_message_has_a_vector() -> None:
    """No message is on the wire without bytes that show it."""
    assert {case["value"]["tag"] for case in vectors.cases("control")} == set(messages.tags())


def test_the_specification_names_every_message_and_field() -> None:
    """The table of control messages in the specification is complete."""
    text = (ROOT / "protocol" / "README.md").read_text(encoding="utf-8")
    for tag, cls in messages.tags().items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{tag}` |")), "")
        assert row, f"no row for {tag}"
        for field in attrs.fields(cls):
            assert f"`{field.name}`" in row, f"{tag} lacks {field.name}"


def test_the_script_sees_a_difference(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`scripts/vectors` passes on the vectors as they stand, and fails on other bytes."""
    monkeypatch.setattr(sys, "argv", ["vectors"])
    assert vectors.main() == 0
    write, read = vectors.BOTH_WAYS["gateway"]
    monkeypatch.setitem(vectors.BOTH_WAYS, "gateway", (lambda value: [*write(value), b"more"], read))
    assert vectors.main() == 1
    assert "gateway.json: the first edge of a session" in capsys.readouterr().out
