"""No bytes whatever make a reader of the wire do anything but return, or refuse with `ProtocolError`."""

from __future__ import annotations

import mmap
import sys
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rmbus.errors import MalformedFrame, ProtocolError, TooLarge
from rmbus.protocol import frames, lane, limits, manifest, messages, published
from rmbus.protocol.codec import pack, unpack
from rmbus.protocol.topics import check_pattern, check_topic, matches

INTEGERS = st.integers(-(2**63), 2**64 - 1)
KEYS = st.one_of(st.text(max_size=5), INTEGERS)
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), st.text(max_size=20), st.binary(max_size=20))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
ODD_KEYS = st.one_of(KEYS, st.none(), st.booleans(), st.floats(), st.binary(max_size=3))
ODD_VALUES = st.recursive(
    SCALARS | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(ODD_KEYS, inner, max_size=5),
    max_leaves=12,
)
HEADERS = st.builds(
    frames.Header,
    kind=st.sampled_from(frames.Kind),
    seq=st.integers(0, 2**64 - 1),
    turn=st.integers(0, 2**64 - 1),
    pts=st.none() | INTEGERS,
    num=st.integers(1, 2**64 - 1),
    den=st.integers(1, 2**64 - 1),
    captured_ns=st.integers(0, 2**64 - 1),
    extra=VALUES,
)
PLACES = st.builds(
    frames.Place,
    segment=st.integers(0, 2**64 - 1),
    offset=st.integers(0, 2**64 - 1),
    size=st.integers(0, limits.MAX_PAYLOAD_BYTES),
)
ENTRIES = st.builds(
    frames.Entry,
    ticket=st.integers(0, limits.TICKETS),
    header=HEADERS,
    payload=st.one_of(st.binary(max_size=40), st.integers(0, limits.MAX_PAYLOAD_BYTES), PLACES),
)
START = messages.Start("0123456789abcdef", 1, "edges", "demo:Edges", inputs=["in"], topics={"out": "demo/edges"})
SEEDS = [
    frames.join_frames(
        [
            frames.encode_frame(
                frames.Header(17, 0, extra={"kind": "video", "pixels": "gray", "width": 2, "height": 2})
            ),
            frames.encode_frame(frames.Header(1, 5, 0, 1001, 30000, 1001, 1_700_000_000_000_000_000), b"abcd"),
            frames.encode_frame(frames.Header(1, 6), 691_200),
            frames.with_ticket(frames.encode_frame(frames.Header(1, 7), frames.Place(7, 692_224, 691_200)), 300),
        ]
    ),
    messages.encode(START, 3),
    messages.encode(messages.Link("s", 0, bytes(16), 0, "out", 1, "in"), 4),
    messages.encode(messages.Ok({"edges": [{"latency": {140: 3}}]}), 5),
    messages.encode(messages.Segment("out", 7, 4, 692_224, 0)),
    b"".join(bytes(part) for part in lane.encode(lane.Message(3, 7, b"body", b"payload"))),
    published.encode_published("a/b", frames.encode_frame(frames.Header(4, 0), b"\xc0")),
    manifest.Manifest("demo:Edges", "cpython-3.11", (manifest.FileEntry("a.py", "0" * 64, 3),)).encode(),
]


def _anything(value: bytes) -> None:
    unpack(value, limit=1 << 20, what="anything")


READERS: list[Callable[[bytes], object]] = [
    _anything,
    frames.decode_frames,
    messages.decode,
    manifest.decode_manifest,
    lane.unpack_grant,
    published.decode_published,
    lambda value: lane.decode_one(memoryview(value)),
    lambda value: lane.decode([memoryview(value)]),
    lambda value: lane.decode([memoryview(value), memoryview(value)]),
]


def read_everything(value: bytes) -> None:
    for read in READERS:
        assert len(refusal(read, value)) < 3000  # a peer's bytes do not come back whole


def refusal(read: Callable[[Any], object], value: object) -> str:
    """Return why a reader refuses, "" where it does not; any other error than ours passes through."""
    try:
        read(value)
    except ProtocolError as error:
        return str(error)
    return ""


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
@example(b"\xdb\xff\xff\xff\xff")
@example(b"\x91" * 200 + b"\xc0")
@example(b"\x81" * 200 + b"\xc0")
@example(b'{"version":1,"files":' + b"[" * 200 + b"]" * 200 + b"}")
def test_any_bytes(value: bytes) -> None:
    """Bytes at random."""
    read_everything(value)


@given(st.sampled_from(SEEDS), st.data())
def test_bytes_that_were_damaged(seed: bytes, data: st.DataObject) -> None:
    """Messages with bytes changed, cut off, put in."""
    value = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        place = data.draw(st.integers(0, len(value)), "place")
        length = data.draw(st.integers(0, 4), "replaced")
        value[place : place + length] = data.draw(st.binary(max_size=4), "by")
    read_everything(bytes(value))


@given(ODD_VALUES)
def test_any_msgpack(value: object) -> None:
    """Well-formed msgpack of any content, keys and extensions that are not allowed among it."""
    read_everything(msgpack.packb(value, use_bin_type=True))


@given(st.lists(ODD_VALUES, min_size=9, max_size=11), st.integers(0, 2))
def test_any_frames(elements: list[object], count: int) -> None:
    """Arrays that are frames in shape alone."""
    read_everything(msgpack.packb([elements] * count))


@given(ENTRIES, st.integers(0, 9), ODD_VALUES)
def test_frames_with_one_element_that_may_be_anything(entry: frames.Entry, place: int, value: object) -> None:
    """Frames as they should be, but for one of their elements."""
    elements = [entry.ticket, *entry.header, entry.payload]
    elements[place] = value
    read_everything(msgpack.packb([elements]))


@given(st.sampled_from(sorted(messages.tags())), st.data())
def test_any_fields(tag: str, data: st.DataObject) -> None:
    """Messages whose fields hold anything."""
    fields = {
        field.name: data.draw(ODD_VALUES, field.name)
        for field in attrs.fields(messages.tags()[tag])
        if data.draw(st.booleans(), f"{field.name}?")
    }
    read_everything(msgpack.packb([tag, 1, fields]))


@given(st.text(max_size=300), st.text(max_size=40))
def test_any_topic(name: str, other: str) -> None:
    """Any text is a topic or is none; matching never fails."""
    for check in (check_topic, check_pattern):
        assert len(refusal(check, name)) < 3000
    matches(name, other)


# --- there and back -------------------------------------------------------------------------------------------------


@given(st.lists(ENTRIES, min_size=1, max_size=20))
def test_frames_there_and_back(entries: list[frames.Entry]) -> None:
    """What was written is what is read, whatever the ticket, wherever the payload."""
    body = frames.join_frames([written(entry) for entry in entries])
    assert repr(frames.decode_frames(body)) == repr([_plain(entry) for entry in entries])  # as text, for NaN is not NaN


@given(ENTRIES)
def test_a_ticket_changes_nothing_else(entry: frames.Entry) -> None:
    """A frame is encoded once for all its edges; each puts its own ticket in front."""
    frame = frames.encode_frame(entry.header, entry.payload)
    one, other = (frames.decode_frames(frames.join_frames([frames.with_ticket(frame, t)]))[0] for t in (1, 448))
    assert (one.ticket, other.ticket) == (1, 448)
    assert repr(one[1:]) == repr(other[1:])


@pytest.mark.parametrize("count", [1, 15, 16, limits.MAX_FRAMES])
def test_as_many_frames_as_a_message_holds(count: int) -> None:
    """Every length of the array is read; one more than the limit is neither written nor read."""
    frame = frames.encode_frame(frames.Header(4, 0), b"x")
    assert len(frames.decode_frames(frames.join_frames([frame] * count))) == count
    with pytest.raises(IndexError):
        frames.join_frames([frame] * (limits.MAX_FRAMES + 1))
    with pytest.raises(MalformedFrame, match="1 to 256"):
        frames.decode_frames(b"\xdc\x01\x01" + frame * (limits.MAX_FRAMES + 1))


@given(
    st.sampled_from(lane.Type),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=400),
    st.one_of(st.binary(max_size=400), st.integers(65_530, 65_545).map(bytes)),
)
def test_lane_messages_there_and_back(kind: lane.Type, number: int, body: bytes, payload: bytes) -> None:
    """What was written is what is read; a payload is a part of its own, and nothing else is."""
    parts = lane.encode(lane.Message(kind, number, body, payload))
    assert len(parts) == (2 if payload else 1)
    read = lane.decode([memoryview(part) for part in parts])
    assert (read.type, read.number, bytes(read.body), bytes(read.payload)) == (kind, number, body, payload)


@given(ENTRIES.filter(lambda entry: isinstance(entry.payload, bytes)))
def test_published_frames_there_and_back(entry: frames.Entry) -> None:
    """What was written is what is read, under its topic."""
    topic, read = published.decode_published(published.encode_published("a/b", written(entry)))
    assert topic == "a/b"
    assert repr(read) == repr(_plain(entry))


@given(st.sampled_from(lane.Type), st.integers(0, 2**64 - 1), st.binary(max_size=100))
def test_one_part_is_read_as_by_the_reader_of_all(kind: lane.Type, number: int, body: bytes) -> None:
    """The quick way and the other read the same."""
    (part,) = lane.encode(lane.Message(kind, number, body))
    assert lane.decode_one(memoryview(part)) == lane.decode([memoryview(part)])


@given(st.integers(0, 2**64 - 1), st.binary(max_size=9))
def test_grants_there_and_back(grant: int, behind: bytes) -> None:
    """What was written is what is read, whatever follows."""
    assert lane.unpack_grant(lane.pack_grant(grant) + behind) == grant


@given(st.dictionaries(st.text(max_size=10), VALUES, max_size=6), st.integers(0, limits.MAX_ID))
def test_control_messages_there_and_back(value: dict[str, Any], number: int) -> None:
    """What was written is what is read."""
    read_number, read = messages.decode(messages.encode(messages.Ok(value), number))
    assert read_number == number
    assert isinstance(read, messages.Ok)
    assert repr(read.value) == repr(value)  # compared as text, for a NaN is not itself


def written(entry: frames.Entry) -> bytes:
    return frames.with_ticket(frames.encode_frame(entry.header, entry.payload), entry.ticket)


def _plain(entry: frames.Entry) -> frames.Entry:
    return entry._replace(header=entry.header._replace(kind=int(entry.header.kind)))


# --- limits ---------------------------------------------------------------------------------------------------------


@contextmanager
def allocating_at_most(size: int) -> Generator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size


HOSTILE = [
    pytest.param(b"\xdd\x00\x00\x27\x10" * 1000, id="arrays in each other that announce 10000 elements"),
    pytest.param(b"\xdd\x00\x01\x86\xa0" * 1000, id="arrays in each other that announce 100000 elements"),
    pytest.param(b"\xdc\x27\x10" * 54_000, id="as many such arrays as a message of a lane holds"),
    pytest.param(b"\xdc\xff\xff" * 21_000, id="arrays in each other that announce 65535 elements"),
    pytest.param(b"\xdc\x27\x10" + b"\xdc\x27\x10" * 10_000, id="arrays side by side that announce 10000 elements"),
    pytest.param(b"\x81\x01" * 1000 + b"\xc0", id="a thousand maps in each other"),
    pytest.param(b"\xdf\xff\xff\xff\xff", id="a map that announces 4 billion"),
    pytest.param(b"\xc6\xff\xff\xff\xff", id="bytes that announce 4 GB"),
    pytest.param(b"\xc9\xff\xff\xff\xff\x05", id="an extension that announces 4 GB"),
    pytest.param(b"\xdc\x27\x10" + b"\x80" * 10_000, id="10000 empty maps"),
    pytest.param(b"\xdc\x27\x10" + (b"\x9f" + b"\x80" * 15) * 10_000, id="150000 empty maps"),
    pytest.param(b"\x91\x9a" + b"\x91" * 1000 + b"\xc0" + b"\x00" * 9, id="a ticket deeper than Python recurses"),
    pytest.param(b"\x91\x9a\x00\xff\x00\x00" + b"\x91" * 1000 + b"\xc0" + b"\x01" * 5, id="a pts as deep"),
    pytest.param(b"\xdc\x01\x00" + (b"\x9a" + b"\x91" * 600 + b"\xc0" + b"\x00" * 9) * 256, id="256 deep frames"),
    pytest.param(b"\xdc\x01\x00" + (b"\x9a" + b"\xc4\xff" + bytes(255) + b"\x00" * 9) * 256, id="256 frames of bytes"),
]
"""What makes an honest reader of msgpack take up room or time; no message of it is as specified."""


@pytest.mark.parametrize("value", HOSTILE)
def test_what_a_message_announces_is_not_allocated(value: bytes) -> None:
    """A few kilobytes do not make a reader take up more than some megabytes."""
    for read in (frames.decode_frames, messages.decode):
        with allocating_at_most(100 << 20), pytest.raises(ProtocolError):
            read(value)


@pytest.mark.parametrize("value", HOSTILE)
def test_the_work_is_bounded_by_the_size(value: bytes) -> None:
    """However the bytes are put together, a reader makes no more calls than a few for each of them."""
    for read in (frames.decode_frames, messages.decode):
        assert calls(read, value) < 8 * len(value) + 2000


def test_frames_cost_what_they_are_long() -> None:
    """A full message of well-formed frames takes a few calls for each of them, however much rides in it."""
    frame = frames.encode_frame(frames.Header(4, 0), bytes(500))
    whole = frames.join_frames([frame] * limits.MAX_FRAMES)
    assert len(whole) < limits.MAX_LANE_BYTES
    assert calls(frames.decode_frames, whole) < 40 * limits.MAX_FRAMES
    with allocating_at_most(4 * len(whole)):
        frames.decode_frames(whole)


def calls(read: Callable[[bytes], object], value: bytes) -> int:
    """Count the calls, of Python and of C, that reading takes: a measure of time that no machine changes."""
    counted = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        refusal(read, value)
    finally:
        sys.setprofile(None)
    return counted


def test_a_number_is_not_turned_into_that_many_bytes() -> None:
    """A number where a token is due is refused, and no bytes are made of it."""
    fields = {**attrs.asdict(messages.Link("s", 0, bytes(16), 0, "o", 1, "i")), "token": 2**40}
    with allocating_at_most(1 << 20), pytest.raises(MalformedFrame, match="int where bytes is due"):
        messages.decode(pack(["link", 1, fields]))


def test_a_message_over_its_limit_is_not_even_read() -> None:
    """Size is asked first, for each kind of message; what is just within passes that question."""
    for read, limit in (
        (frames.decode_frames, limits.MAX_LANE_BYTES),
        (messages.decode, limits.MAX_CONTROL_BYTES),
        (manifest.decode_manifest, manifest.MAX_MANIFEST_BYTES),
    ):
        with pytest.raises(TooLarge, match=str(limit)):
            read(bytes(limit + 1))
        with pytest.raises(MalformedFrame):
            read(bytes(limit))


def test_a_payload_over_its_limit_is_refused_both_ways() -> None:
    """A gigabyte and a byte is neither sent nor taken; nothing is copied to find that out."""
    with mmap.mmap(-1, limits.MAX_PAYLOAD_BYTES + 1) as large, memoryview(large) as whole:
        prefix = memoryview(bytes(lane.encode(lane.Message(3, 1, b"", b""))[0]))
        with allocating_at_most(1 << 20):
            with pytest.raises(TooLarge):
                lane.encode(lane.Message(3, 1, b"", whole))
            with pytest.raises(TooLarge):
                lane.decode([prefix, whole])
            with whole[:-1] as allowed:
                lane.decode([prefix, allowed]).payload.release()  # type: ignore[union-attr]  # a view


def test_a_body_over_its_limit_is_refused_both_ways() -> None:
    """What is just within the limit passes, with its prefix counted."""
    most = limits.MAX_LANE_BYTES - lane.PREFIX_BYTES
    (whole,) = lane.encode(lane.Message(5, 1, bytes(most)))
    assert len(lane.decode([memoryview(whole)]).body) == most
    with pytest.raises(TooLarge, match="163841"):
        lane.encode(lane.Message(5, 1, bytes(most + 1)))
    with pytest.raises(TooLarge, match="163841"):
        lane.decode([memoryview(bytes(whole) + b"x")])


def test_nothing_is_written_that_nobody_reads() -> None:
    """A writer refuses what is over a limit or cannot be written, with an error that says so."""
    with pytest.raises(TooLarge, match="header"):
        frames.encode_frame(frames.Header(17, 0, extra=bytes(limits.MAX_HEADER_BYTES)))
    for payload in (bytes(limits.INLINE_BYTES), limits.MAX_PAYLOAD_BYTES, frames.Place(1, 2, 3)):
        assert frames.encode_frame(frames.Header(1, 0), payload)  # the payload is not the header's
    with pytest.raises(TooLarge, match="'log' message"):
        messages.encode(messages.Log("s", 0, ["x" * limits.MAX_CONTROL_BYTES]))
    with pytest.raises(MalformedFrame, match="cannot travel"):
        frames.encode_frame(frames.Header(1, 0, pts=2**64))
    with pytest.raises(MalformedFrame, match="cannot travel"):
        frames.encode_frame(frames.Header(1, 0, extra=object()))
    with pytest.raises(MalformedFrame, match="number"):
        lane.encode(lane.Message(3, 2**64, b""))
    with pytest.raises(MalformedFrame, match="type 256"):
        lane.encode(lane.Message(256, 1, b""))
    with pytest.raises(MalformedFrame, match="grant"):
        lane.pack_grant(-1)
    with pytest.raises(MalformedFrame, match="session"):
        messages.Go("../x")


def test_nesting_ends_at_its_limit() -> None:
    """32 containers in each other pass, 33 do not; maps and arrays count alike."""
    for inner in (b"\x91", b"\x81\x01"):
        assert unpack(inner * limits.MAX_DEPTH + b"\xc0", limit=1000, what="it")
        with pytest.raises(MalformedFrame, match="nested deeper than 32"):
            unpack(inner * (limits.MAX_DEPTH + 1) + b"\xc0", limit=1000, what="it")


def test_an_unknown_message_says_which() -> None:
    """Whoever gets an unknown message can answer it: the id is told, and no more of the tag than is needed."""
    with pytest.raises(messages.UnknownTag) as caught:
        messages.decode(pack(["x" * 100_000, 7, {}]))
    assert caught.value.number == 7
    assert len(str(caught.value)) < 300
