"""Frames: what they hold, what they refuse, and that they cross the wire unchanged."""

from __future__ import annotations

import dataclasses
import math
import pickle
from fractions import Fraction
from typing import Any
from unittest import mock

import attrs
import av
import msgpack
import numpy as np
import pytest
from av.filter import Graph
from hypothesis import given, settings
from hypothesis import strategies as st

from rmbus.errors import FormatError, ProtocolError
from rmbus.formats import Audio, Encoded, Video
from rmbus.framing import bare, decode, encode, own, settled
from rmbus.layouts import PIXELS, SAMPLES
from rmbus.media import AudioFrame, Data, Frame, Packet, VideoFrame, read_only_advice
from rmbus.protocol.frames import Header, decode_frames, encode_frame, join_frames
from rmbus.stamps import memory_of, remember


def _across(frame: Frame, format: Any = None) -> Any:
    """Send a frame over the wire and back."""
    kind, extra, payload = encode(frame)
    base = frame.time_base
    header = Header(kind, frame.seq, 0, frame.pts, base.numerator, base.denominator, frame.captured_ns, extra)
    ((_, read, content),) = decode_frames(join_frames([encode_frame(header, bytes(payload))]))
    assert isinstance(content, bytes)
    return decode(read, content, format or frame.format, topic="p/n/o")


def _picture(pixels: str, width: int = 16, height: int = 8) -> np.ndarray[Any, Any]:
    known = PIXELS[pixels]
    shape = known.shape(width, height)
    return (np.arange(math.prod(shape)) % 251).astype(known.dtype).reshape(shape)


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", PIXELS)
def test_pictures_cross_the_wire(pixels: str) -> None:
    """Each pixel format arrives with its pixels, header and format."""
    sent = VideoFrame(_picture(pixels), pixels, rate=25, pts=7, captured_ns=12, seq=3)
    got = _across(sent)
    assert np.array_equal(got.array, sent.array)
    assert (got.pts, got.time_base, got.captured_ns, got.seq, got.topic) == (7, Fraction(1, 25), 12, 3, "p/n/o")
    assert got.format == Video(pixels, width=16, height=8, rate=Fraction(25))
    assert got.time_s == pytest.approx(0.28)


def test_a_picture_is_not_copied() -> None:
    """The payload is the array's own memory, and the array that arrives is the payload's."""
    array = _picture("rgb24")
    frame = VideoFrame(array)
    _, _, payload = encode(frame)
    assert isinstance(payload, memoryview)
    got = decode(Header(1, 0), payload, frame.format)
    assert isinstance(got, VideoFrame)
    assert np.shares_memory(got.array, array)


def test_the_format_follows_the_shape() -> None:
    """An array of three channels is rgb24, of four rgba, of two axes gray."""
    assert VideoFrame(np.zeros((4, 6, 3), np.uint8)).format.pixels == "rgb24"
    assert VideoFrame(np.zeros((4, 6, 4), np.uint8)).format.pixels == "rgba"
    assert VideoFrame(np.zeros((4, 6), np.uint8)).format == Video("gray", width=6, height=4)


def test_arrays_are_read_only() -> None:
    """Nothing writes to a frame's array, on either side of the wire, and the advice names editable()."""
    for frame in (VideoFrame(_picture("rgb24")), _across(VideoFrame(_picture("rgb24")))):
        with pytest.raises(ValueError, match="read-only") as caught:
            frame.array[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            np.add(frame.array, 1, out=frame.array)
        assert "editable()" in str(read_only_advice(caught.value))
    assert read_only_advice(ValueError("another")) is None


def test_frames_are_immutable() -> None:
    """No field can be set."""
    frame = VideoFrame(_picture("rgb24"), pts=1)
    with pytest.raises(AttributeError):
        frame.pts = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        frame.array = frame.array  # type: ignore[misc]


def test_editable_is_a_copy_to_draw_on() -> None:
    """A copy is drawn on, the frame stays as it was, and with_array keeps the header."""
    frame = VideoFrame(_picture("rgb24"), rate=25, pts=5, seq=9)
    before = frame.array.copy()
    drawing = frame.editable()
    drawing[:] = 7
    new = frame.with_array(drawing)
    assert np.array_equal(frame.array, before)
    assert (new.pts, new.seq, new.time_base) == (5, 9, Fraction(1, 25))
    assert new.format == frame.format
    assert int(new.array[0, 0, 0]) == 7


def test_with_array_takes_another_size() -> None:
    """A smaller picture has a format of its own, and a gray one when it is named."""
    frame = VideoFrame(_picture("rgb24"), rate=25, pts=5)
    assert frame.with_array(frame.array[::2, ::2]).format == Video("rgb24", width=8, height=4, rate=Fraction(25))
    assert frame.with_array(frame.array[..., 0], "gray").format.pixels == "gray"


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 6, 3)), "uint8, the array is float64"),
        (np.zeros((4, 6), np.uint8), r"shape \[4, 6\]"),
        (np.zeros((4, 6, 4), np.uint8), "rgb24"),
        (np.zeros((0, 6, 3), np.uint8), "no picture"),
    ],
)
def test_wrong_pixels_are_refused(array: np.ndarray[Any, Any], said: str) -> None:
    """An array of another type or shape is refused with what is wrong."""
    with pytest.raises(FormatError, match=said):
        VideoFrame(_picture("rgb24")).with_array(array)


def test_planar_pictures_have_even_sizes() -> None:
    """yuv420p of an odd size is refused, and the way out is named."""
    with pytest.raises(FormatError, match="rgb24"):
        PIXELS["yuv420p"].shape(15, 8)


def test_gaps_are_closed_once() -> None:
    """A view with gaps becomes contiguous when the frame is made, so that no send copies it again."""
    flipped = _picture("rgb24")[:, ::-1]
    frame = VideoFrame(flipped)
    assert frame.array.flags.c_contiguous
    assert np.array_equal(_across(frame).array, flipped)


def test_stamped_shares_the_pixels() -> None:
    """Another header, the same memory; unknown fields are refused."""
    frame = VideoFrame(_picture("rgb24"), pts=1)
    other = frame.stamped(pts=2, topic="a/b")
    assert (other.pts, other.topic, frame.pts, frame.topic) == (2, "a/b", 1, "")
    assert other.array is frame.array
    with pytest.raises(TypeError, match="captured_ns"):
        frame.stamped(ptss=2)  # type: ignore[call-arg]


def test_frames_pickle() -> None:
    """A frame in a node's state survives pickling, also after it was lent to PyAV."""
    frame = VideoFrame(_picture("rgb24"), pts=1)
    frame.to_av()
    again = pickle.loads(pickle.dumps(frame))
    assert np.array_equal(again.array, frame.array)
    assert again.pts == 1


# --- PyAV -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("size", [(64, 8), (30, 18), (16, 6)])
def test_pictures_to_pyav_and_back(pixels: str, size: tuple[int, int]) -> None:
    """PyAV's frame has the same pixels and times, and gives them back."""
    frame = VideoFrame(_picture(pixels, *size), pixels, pts=3, time_base=Fraction(1, 90000))
    there = frame.to_av()
    assert (there.width, there.height, there.format.name, there.pts) == (*size, pixels, 3)
    back = VideoFrame.from_av(there)
    assert np.array_equal(back.array, frame.array)
    assert (back.pts, back.time_base, back.format) == (3, Fraction(1, 90000), frame.format)


def test_pyav_shares_the_memory() -> None:
    """Neither way copies where PyAV's rows lie without gaps, and the memory outlives its owner."""
    array = _picture("rgb24", 64, 8)
    back = VideoFrame.from_av(VideoFrame(array).to_av())
    assert np.shares_memory(back.array, array)
    fresh = VideoFrame.from_av(av.VideoFrame.from_ndarray(array, "rgb24"))
    assert np.array_equal(fresh.array, array)


def test_filters_do_not_write_into_a_living_frame() -> None:
    """A filter that draws in place gets a copy as long as the frame lives, though PyAV knows no read-only memory."""
    frame = VideoFrame(np.zeros((64, 64, 3), np.uint8), pts=0)
    graph: Any = Graph()  # the stubs want other types than it takes
    source = graph.add_buffer(width=64, height=64, format="rgb24", time_base=Fraction(1))
    box, sink = graph.add("drawbox", "color=white:t=fill"), graph.add("buffersink")
    source.link_to(box)
    box.link_to(sink)
    graph.configure()
    graph.push(frame.to_av())
    drawn: Any = graph.pull()
    assert int(drawn.to_ndarray().max()) == 255
    assert int(frame.array.max()) == 0


def test_other_pixels_are_converted() -> None:
    """What the bus does not carry comes as rgb24, or as what is asked for."""
    there = av.VideoFrame(16, 8, "yuv444p10le")
    assert VideoFrame.from_av(there).format.pixels == "rgb24"
    assert VideoFrame.from_av(there, "gray").array.shape == (8, 16)


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_crosses_the_wire_and_pyav(samples: str, channels: int) -> None:
    """Each sample format keeps its samples on the wire and in PyAV, planar and packed."""
    array = np.arange(channels * 10).reshape(channels, 10).astype(SAMPLES[samples])
    frame = AudioFrame(array, 48000, samples=samples, pts=1024)
    for got in (_across(frame), AudioFrame.from_av(frame.to_av())):
        assert np.array_equal(got.array, array)
        assert got.array.dtype == array.dtype
        assert not got.array.flags.writeable
        assert (got.rate, got.layout, got.pts, got.time_base) == (48000, frame.layout, 1024, Fraction(1, 48000))
        assert got.format == Audio(samples, rate=48000, layout=frame.layout)


def test_packed_sound_lies_as_ffmpeg_has_it() -> None:
    """The payload of packed samples is interleaved."""
    frame = AudioFrame(np.array([[1, 3, 5], [2, 4, 6]], np.int16), 8000, samples="s16")
    assert np.frombuffer(bytes(encode(frame)[2]), np.int16).tolist() == [1, 2, 3, 4, 5, 6]


def test_sound_is_checked() -> None:
    """The type and the number of channels have to be the format's; one axis is one channel."""
    frame = AudioFrame(np.zeros((2, 5), np.float32), 48000)
    assert frame.format == Audio("fltp", rate=48000, layout="stereo")
    assert AudioFrame(np.zeros(5, np.float32), 48000).layout == "mono"
    with pytest.raises(FormatError, match="int16"):
        frame.with_array(np.zeros((2, 5), np.int16))
    with pytest.raises(FormatError, match="stereo"):
        frame.with_array(np.zeros((3, 5), np.float32))
    with pytest.raises(FormatError, match="bogus"):
        AudioFrame(np.zeros((2, 5), np.float32), 48000, layout="bogus")


def test_sound_without_samples() -> None:
    """A frame of no samples crosses too."""
    assert _across(AudioFrame(np.zeros((2, 0), np.float32), 48000)).array.shape == (2, 0)


def test_packets_cross_the_wire_and_pyav() -> None:
    """Bytes, key flag and times stay; the codec comes with the format."""
    packet = Packet(b"abc", "h264", key=True, pts=5, dts=3, duration=2, time_base=Fraction(1, 90000))
    for got in (_across(packet), Packet.from_av(packet.to_av(), "h264")):
        assert (got.data, got.key, got.pts, got.dts, got.duration) == (b"abc", True, 5, 3, 2)
        assert (got.codec, got.time_base) == ("h264", Fraction(1, 90000))


# --- data -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Box:
    x: int
    corners: np.ndarray[Any, Any]


@dataclasses.dataclass
class _Named:
    name: str
    boxes: list[_Box]


def test_data_crosses_the_wire() -> None:
    """Plain values and arrays arrive; attrs classes and dataclasses as dicts, tuples as lists."""
    corners = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = {"t": (1, 2.5, None, b"x"), "n": _Named("a", [_Box(1, corners)]), "m": np.float32(0.5), 3: np.ones((2, 2))}
    got = _across(Data(value, pts=4)).value
    assert got["t"] == [1, 2.5, None, b"x"]
    assert got["n"]["name"] == "a"
    assert np.array_equal(got["n"]["boxes"][0]["corners"], corners)
    assert got["m"] == 0.5
    assert got[3].tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.int8),
        np.array(1.5),
        np.array(["ab", "c"]),
        np.array(["2024-05-01"], dtype="datetime64[D]"),
        np.arange(24, dtype=">i2").reshape(2, 3, 4)[:, ::2],
        np.array([True, False]),
        np.array([1 + 2j]),
    ],
)
def test_arrays_in_data(array: np.ndarray[Any, Any]) -> None:
    """Any plain array keeps type, shape and values, and comes read-only where it has bytes."""
    got = _across(Data([array, array])).value
    assert all(np.array_equal(each, array) and each.dtype == array.dtype for each in got)
    assert not array.size or not got[0].flags.writeable


def test_large_arrays_in_data_are_read_in_place() -> None:
    """The array that arrives lies in the payload, aligned."""
    length, draft = encode(Data({"a": np.arange(1000.0)}))[1:]
    payload = bytes(draft)
    got: Any = decode(Header(4, 0, extra=length), payload, Any)
    assert np.shares_memory(got.value["a"], np.frombuffer(payload, np.uint8))
    assert got.value["a"].flags.aligned


def test_the_structure_of_shared_data_is_read_from_a_copy() -> None:
    """Its producer can change it while it is read; a number of elements must not grow between check and use."""
    length, payload = encode(Data({"a": np.arange(1000.0), "b": "text"}))[1:]
    shared = np.frombuffer(bytes(payload), np.uint8)
    with mock.patch("msgpack.unpackb", wraps=msgpack.unpackb) as unpackb:
        got: Any = decode(Header(4, 0, extra=length), shared.data, Any)
    assert all(not np.shares_memory(np.frombuffer(call.args[0], np.uint8), shared) for call in unpackb.call_args_list)
    assert np.shares_memory(got.value["a"], shared)
    assert got.value["b"] == "text"


def test_what_cannot_travel_is_named_with_its_path() -> None:
    """The error tells the place in the value, as its user writes it."""
    with pytest.raises(FormatError, match=r"value\['a'\]\[1\]\.name: a value of type set"):
        encode(Data({"a": [1, _Named({1}, [])]}))  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="array of type object"):
        encode(Data(np.array([object()])))
    with pytest.raises(FormatError, match="64 bits"):
        encode(Data([2**70]))


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 99), inner, max_size=4),
    max_leaves=12,
)


@given(_plain)
def test_any_plain_value_arrives(value: Any) -> None:
    """What is decoded is what was encoded."""
    assert _across(Data(value)).value == value


_formats = st.sampled_from(
    [
        *(Video("rgb24", width=4, height=2), Video("yuv420p", width=3, height=2), Video("odd", width=1, height=1)),
        *(Audio("s16", rate=8000, layout="stereo"), Audio("odd", rate=1, layout="x"), Audio("s16", rate=1)),
        *(Video(), Audio(), Encoded("h264"), Any),
    ]
)
_headers = st.builds(
    Header,
    kind=st.integers(0, 20),
    seq=st.integers(0, 9),
    num=st.integers(1, 9),
    den=st.integers(1, 9),
    extra=st.none() | st.integers(-1, 200) | st.lists(st.none() | st.booleans() | st.integers(-1, 9), max_size=4),
)


@settings(max_examples=300)
@given(_headers, st.binary(max_size=200), _formats)
def test_any_bytes_decode_or_are_refused(header: Header, payload: bytes, format: Any) -> None:
    """Whatever comes, a frame is returned or a ProtocolError raised, never anything else."""
    try:
        frame = decode(header, payload, format)
    except ProtocolError:
        return
    assert frame.seq == header.seq


@settings(max_examples=300)
@given(st.integers(0, 80), st.integers(0, 255), st.integers(0, 3))
def test_damaged_arrays_are_refused_or_read(place: int, byte: int, cut: int) -> None:
    """One byte changed or the end cut off: a value or a ProtocolError, never objects from memory that is not there."""
    length, payload = encode(Data({"a": np.arange(5), "b": np.zeros((2, 2), "<f4")}))[1:]
    damaged = bytearray(bytes(payload))
    damaged[place] = byte
    try:
        got: Any = decode(Header(4, 0, extra=length), bytes(damaged[: len(damaged) - cut * 64]), Any)
    except ProtocolError:
        return
    arrays = (
        [each for each in got.value.values() if isinstance(each, np.ndarray)] if isinstance(got.value, dict) else []
    )
    assert all(each.dtype.kind != "O" and each.nbytes <= len(payload) for each in arrays)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (["|V8", [1], 0], "neither numbers, text nor times"),
        (["|O", [1], 0], "neither numbers, text nor times"),
        (["<i8", [9], 0], "needs 72 bytes at 0, and there are 64"),
        (["<i8", [1], 64], "needs 8 bytes at 64"),
        (["<i8", [-1], 0], "whole numbers"),
        (["<i8", [1] * 40, 0], "at most 32"),
        (["<i8", [1]], "dtype, shape, offset"),
        (3, "dtype, shape, offset"),
    ],
)
def test_arrays_of_a_bad_peer_are_refused(about: object, said: str) -> None:
    """A header of an array that does not fit what came is refused with the reason."""
    head = msgpack.packb(msgpack.ExtType(1, msgpack.packb(about)))
    with pytest.raises(ProtocolError, match=said):
        decode(Header(4, 0, extra=len(head)), head.ljust(128, b"\0"), Any)


def test_a_picture_of_another_size_is_refused() -> None:
    """A payload that is not exactly the picture is an error of the peer."""
    with pytest.raises(ProtocolError, match="24 bytes, and 23"):
        decode(Header(1, 0), bytes(23), Video("rgb24", width=4, height=2))


# --- memory -----------------------------------------------------------------------------------------------------------


class _Memory:
    """Stands for what keeps a place in shared memory as it is."""


def test_a_frame_remembers_what_keeps_its_content() -> None:
    """Also with another header; not with another content, nor after pickling."""
    held = _Memory()
    frame = remember(VideoFrame(_picture("rgb24"), pts=1), held)
    assert memory_of(frame) is held
    assert memory_of(frame.stamped(pts=2)) is held
    assert memory_of(frame.with_array(frame.editable())) is None
    assert memory_of(pickle.loads(pickle.dumps(frame))) is None
    assert memory_of(VideoFrame(_picture("rgb24"))) is None


@pytest.mark.parametrize(
    "frame",
    [
        VideoFrame(_picture("rgb24"), pts=3, seq=4, topic="a/b", rate=25),
        VideoFrame(_picture("gray16le"), "gray16le", pts=3),
        AudioFrame(np.ones((2, 480), np.float32), 48000, pts=3),
        Data({"a": 1}, pts=3),
    ],
)
def test_a_bare_frame_has_its_header_and_no_content(frame: Frame) -> None:
    """Its array is of the same shape, all zeros, and takes up no room; nothing is kept by it."""
    bare_one = bare(remember(frame, _Memory()))
    assert type(bare_one) is type(frame)
    assert memory_of(bare_one) is None
    assert (bare_one.pts, bare_one.seq, bare_one.topic, bare_one.format) == (
        frame.pts,
        frame.seq,
        frame.topic,
        frame.format,
    )
    if isinstance(bare_one, VideoFrame | AudioFrame) and isinstance(frame, VideoFrame | AudioFrame):
        assert (bare_one.array.shape, bare_one.array.dtype) == (frame.array.shape, frame.array.dtype)
        assert not bare_one.array.any()
        assert bare_one.array.strides == (0,) * frame.array.ndim
        assert not bare_one.array.flags.writeable
    else:
        assert isinstance(bare_one, Data)
        assert bare_one.value is None


def test_what_its_maker_can_still_write_to_is_copied() -> None:
    """What waits in a mailbox must not change; what nobody can change is not copied for nothing."""
    array = _picture("rgb24")
    frame = VideoFrame(array)
    payload = encode(frame)[2]
    copy = settled(frame, payload)
    owned = own(frame)
    assert isinstance(owned, VideoFrame)
    array[:] = 0
    for content in (copy, owned.array.tobytes()):
        assert bytes(content) == _picture("rgb24").tobytes()
    settled_array = array.copy()  # its own, with nothing below it that could be written to
    settled_array.setflags(write=False)
    still = VideoFrame(settled_array)
    payload = encode(still)[2]
    assert settled(still, payload) is payload
    assert own(still) is still
    data = Data(b"x")
    assert own(data) is data
