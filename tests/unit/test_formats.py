"""What ports carry, whether an output's format suits an input, and formats on the wire; deliveries as values."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import attrs
import pytest

from rmbus import formats
from rmbus.delivery import DEFAULT, LIVE, Delivery, drop_oldest, latest, parse, reliable
from rmbus.errors import FormatError
from rmbus.formats import Audio, Encoded, Video, fits, from_wire, is_inter_coded, show, to_wire
from rmbus.media import AudioFrame, Data, Packet, VideoFrame
from rmbus.protocol.codec import pack, unpack


class Box:
    pass


NUMBER: Any = 44_100.5


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        (Video(), Video("rgb24")),
        (Video("rgb24", width=640, height=480, rate=25), Video("rgb24", width=640)),
        (Video(rate=29.97), Video(rate="30000/1001")),
        (Audio("fltp", rate=48_000), Audio(layout="mono")),
        (Encoded(), Encoded("h264")),
        (Encoded("h264", "hevc"), Encoded("hevc", "av1")),
        (Any, Video()),
        (Box, Any),
        (bool, int),
        (int, float),
        (Box, object),
        (list[Box], list),
        (list[int], list[float]),
        (dict[str, Any], dict[str, int]),
        (int | None, int),
        (int, str | int),
    ],
)
def test_formats_that_fit(offered: object, wanted: object) -> None:
    """Wildcards, equal fields, common codecs, and related types may be joined."""
    assert fits(offered, wanted) is None


@pytest.mark.parametrize(
    ("offered", "wanted", "words"),
    [
        (Video("rgb24"), Video("gray"), "pixels differs: rgb24 is offered, gray is wanted"),
        (Video(width=640), Video(width=320), "width differs: 640 is offered, 320 is wanted"),
        (Video(height=640), Video(height=320), "height differs"),
        (Video(rate=25), Video(rate=30), "rate differs: 25 is offered, 30 is wanted"),
        (Audio("s16"), Audio("fltp"), "samples differs: s16 is offered, fltp is wanted"),
        (Audio(rate=48_000), Audio(rate=16_000), "rate differs"),
        (Audio(layout="stereo"), Audio(layout="mono"), "layout differs"),
        (Encoded("h264"), Encoded("av1", "vp9"), "codec differs: h264 is offered, av1 or vp9 is wanted"),
        (Video(), Audio(), "kind differs: video is offered, audio is wanted"),
        (Encoded("h264"), Video(), "kind differs: encoded is offered, video is wanted"),
        (int, Audio(), "kind differs: data is offered, audio is wanted"),
        (str, int, "type differs: str is offered, int is wanted"),
        (list[int], list[str], "type differs: list[int] is offered, list[str] is wanted"),
        (int | None, str, "type differs"),
    ],
)
def test_formats_that_do_not_fit(offered: object, wanted: object, words: str) -> None:
    """The misfit is told in words that name the field."""
    assert words in str(fits(offered, wanted))


@pytest.mark.parametrize(
    "format",
    [
        Video(),
        Video("rgb24", width=640, height=480, rate=29.97),
        Audio("fltp", rate=48_000, layout="5.1"),
        Encoded("h264", extradata=b"\x01\x64", width=640, height=480, rate=25),
        Encoded("opus", rate=48_000, layout="stereo"),
        int,
        Any,
        Box,
    ],
)
def test_formats_on_the_wire(format: object) -> None:
    """A format is written as plain msgpack values and read back equal."""
    wire = unpack(pack(to_wire(format)), limit=1000, what="a format")
    assert from_wire(wire) == format


def test_unknown_type_on_the_wire() -> None:
    """A type of a module that is not imported here is read as Any, and nothing is imported for it."""
    assert from_wire({"kind": "data", "type": "no.such.module.Box"}) is Any
    assert from_wire({"kind": "data"}) is Any


@pytest.mark.parametrize(
    "wire", [{}, {"kind": "smell"}, {"kind": "video", "rate": [1, 0]}, {"kind": "audio", "rate": "x"}]
)
def test_no_format_on_the_wire(wire: dict[str, Any]) -> None:
    """What is no format is refused as such."""
    with pytest.raises(FormatError):
        from_wire(wire)


def test_further_fields_on_the_wire_are_ignored() -> None:
    """A field that a later version adds does not hurt."""
    assert from_wire({"kind": "video", "pixels": "gray", "colour": "bt709"}) == Video("gray")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Video(width=0), "width"),
        (lambda: Video(rate=-1), "rate"),
        (lambda: Video(NUMBER), "pixels"),
        (lambda: Audio(rate=NUMBER), "rate"),
        (lambda: Encoded(NUMBER), "codec"),
        (lambda: Encoded(""), "codec"),
    ],
)
def test_values_that_cannot_be_meant(build: Any, words: str) -> None:
    """A field of the wrong type or range is refused by its name."""
    with pytest.raises(ValueError, match=words):
        build()


def test_rates() -> None:
    """A rate may be written in any way, and the NTSC ones are meant exactly."""
    assert Video(rate=29.97).rate == Fraction(30_000, 1001)
    assert Video(rate=23.976).rate == Fraction(24_000, 1001)
    assert Video(rate=12.5).rate == Fraction(25, 2)
    assert Video(rate="25").rate == Fraction(25)


def test_classes_as_formats() -> None:
    """A class where a format is wanted means the format of any of its kind."""
    assert formats.as_format(Video) == formats.as_format(VideoFrame) == Video()
    assert formats.as_format(Audio) == formats.as_format(AudioFrame) == Audio()
    assert formats.as_format(Encoded) == formats.as_format(Packet) == Encoded()
    assert formats.as_format(Data) is Any
    assert formats.as_format(None) is type(None)
    assert formats.as_format(list[Box]) == list[Box]
    with pytest.raises(FormatError, match="'rgb24' is no format"):
        formats.as_format("rgb24")


def test_formats_are_values() -> None:
    """Formats are frozen, equal by value, hashable, and print as they are written."""
    assert Video("rgb24", rate=25) == Video("rgb24", rate=25)
    assert len({Encoded("h264"), Encoded("h264")}) == 1
    assert str(Video("rgb24", width=4, rate=25)) == "Video(rgb24, width=4, rate=25)"
    assert str(Encoded("h264", extradata=b"x")) == "Encoded(h264)"
    assert show(list[Box]).endswith("Box]")
    assert show(Any) == "Any"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Video().width = 3  # type: ignore[misc]  # this is the point


def test_inter_coded() -> None:
    """Packets that others may need are told from those that stand alone."""
    assert is_inter_coded(Encoded("h264"))
    assert is_inter_coded(Encoded())
    assert is_inter_coded(Encoded("opus", "vp8"))
    assert not is_inter_coded(Encoded("mjpeg"))
    assert not is_inter_coded(Encoded("opus", "aac"))
    assert not is_inter_coded(Video())


def test_deliveries() -> None:
    """Deliveries are values that print as they are written and are read back."""
    assert reliable(8) == DEFAULT
    assert drop_oldest(8) == LIVE
    for each, text in ((latest, "latest"), (drop_oldest(3), "drop_oldest(3)"), (reliable(1), "reliable(1)")):
        assert str(each) == text
        assert parse(text) == each
    with pytest.raises(ValueError, match="not 'latest\\(2\\)'"):
        parse("latest(2)")


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "8"])
def test_delivery_of_no_frames(n: Any) -> None:
    """The number of waiting frames is a whole number from 1 up."""
    for make in (drop_oldest, reliable):
        with pytest.raises(ValueError, match="whole number of frames from 1 up"):
            make(n)
    with pytest.raises(ValueError, match="not 'newest'"):
        Delivery("newest")  # type: ignore[arg-type]  # this is the point
