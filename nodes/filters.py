"""Pictures and sound through FFmpeg's filters: any chain of them, and what is wanted most under names of its own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

from rmbus.errors import FormatError
from rmbus.formats import Audio, Rate, Video
from rmbus.layouts import channel_count, pixels_named, sample_type
from rmbus.media import Frame
from rmbus.node import Input, Node, Output
from rmbus.nodes.filtering import Chain, Step, Steps, parse_chain

Fit = Literal["fill", "contain", "cover"]
Method = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]


class _Filtering(Node):
    """A node around a chain of filters. What they hold is not part of its state."""

    @abstractmethod
    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters for frames of a format."""

    def initialize(self) -> None:
        """Begin anew."""
        self._chain = Chain(self.steps, f"input 'in' of {self.name}")

    def process(self, frame: Frame) -> Iterator[Frame]:
        """Yield what the filters give.

        Raises:
            FormatError: they do not take the frame.
        """
        return self._chain.feed(frame)

    def flush(self) -> Iterator[Frame]:
        """Yield what the filters still hold."""
        return self._chain.flush()

    def interrupted(self) -> None:
        """Throw away what the filters hold."""
        self._chain.forget()

    def get_state(self) -> Any:
        """Return the parameters."""
        return {name: value for name, value in super().get_state().items() if name != "_chain"}


class Filter(_Filtering):
    """A chain of FFmpeg's filters, for pictures or sound: `Filter("scale=640:-2,hflip")`, `Filter("atempo=1.5")`.

    Pictures leave in the pixels in which they came, unless the chain ends with `format=...`; sound in its samples,
    unless it ends with `aformat=...`. When the format changes in mid-stream, what the filters hold comes out first.

    Args:
        chain: as FFmpeg's documentation writes it, with one input and one output.
    """

    in_ = Input()
    """Pictures or sound."""
    out = Output()
    """What the chain makes of them, which may be of another kind: `showwaves` shows sound."""

    def __init__(self, chain: str) -> None:
        self.chain = chain
        parse_chain(chain)  # it says what is wrong

    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters."""
        return parse_chain(self.chain)


class _OfPictures(_Filtering):
    deterministic = True  # each picture by itself

    in_ = Input(Video())
    """Pictures."""
    out = Output(Video())
    """Pictures of the same times."""


class Scale(_OfPictures):
    """Brings pictures to a size.

    Args:
        width, height: in pixels; with one of them alone the other follows, made even.
        fit: "fill" stretches them, "contain" shows them whole within bars, "cover" cuts off what is over.
        method: how pixels are worked out.
        colour: of the bars, by FFmpeg's names or as `#rrggbb`.
    """

    def __init__(
        self,
        width: int | None = None,
        height: int | None = None,
        *,
        fit: Fit = "fill",
        method: Method = "bicubic",
        colour: str = "black",
    ) -> None:
        if width is None and height is None:
            raise ValueError("Scale takes a width, a height, or both")
        if fit != "fill" and None in (width, height):
            raise ValueError(f"fit={fit!r} is for a width and a height")
        _check_sizes(width=width, height=height)
        self.width, self.height, self.fit, self.method, self.colour = width, height, fit, method, colour

    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters."""
        flags = "neighbor" if self.method == "nearest" else self.method
        size = f"w={self.width or -2}:h={self.height or -2}"
        keeps = {"fill": "disable", "contain": "decrease", "cover": "increase"}[self.fit]
        scale = Step("scale", f"{size}:flags={flags}:force_original_aspect_ratio={keeps}")
        if self.fit == "contain":
            return (scale, Step("pad", f"{size}:x=-1:y=-1:color={self.colour}"))
        return (scale, Step("crop", size)) if self.fit == "cover" else (scale,)


class Convert(_OfPictures):
    """Brings pictures to a pixel format.

    Args:
        pixels: FFmpeg's name: "rgb24", "bgr24", "gray", "yuv420p", "nv12", ...
    """

    def __init__(self, pixels: str) -> None:
        self.pixels = pixels_named(pixels).name

    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters."""
        return (Step("format", self.pixels),)


class Crop(_OfPictures):
    """Cuts a rectangle out of pictures.

    Args:
        width, height: of the rectangle, in pixels.
        x, y: its upper left corner; by default it lies in the middle.
    """

    def __init__(self, width: int, height: int, x: int | None = None, y: int | None = None) -> None:
        _check_sizes(width=width, height=height)
        self.width, self.height, self.x, self.y = width, height, x, y

    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters.

        Raises:
            FormatError: the rectangle is not within the picture.
        """
        assert isinstance(form, Video)
        assert form.width is not None
        assert form.height is not None
        x = (form.width - self.width) // 2 if self.x is None else self.x
        y = (form.height - self.height) // 2 if self.y is None else self.y
        if not (0 <= x <= form.width - self.width and 0 <= y <= form.height - self.height):
            raise FormatError(
                f"{self.name}: {self.width}x{self.height} at {x},{y} is not within pictures of "
                f"{form.width}x{form.height}"
            )
        _check_even(self.name, form, width=self.width, height=self.height, x=x, y=y)
        return (Step("crop", f"w={self.width}:h={self.height}:x={x}:y={y}"),)


class Pad(_OfPictures):
    """Puts pictures onto a larger ground.

    Args:
        width, height: of the ground, in pixels.
        x, y: where the picture's upper left corner comes; by default it lies in the middle.
        colour: of the ground, by FFmpeg's names or as `#rrggbb`.
    """

    def __init__(
        self, width: int, height: int, *, x: int | None = None, y: int | None = None, colour: str = "black"
    ) -> None:
        _check_sizes(width=width, height=height)
        self.width, self.height, self.x, self.y, self.colour = width, height, x, y, colour

    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters."""
        _check_even(self.name, form, width=self.width, height=self.height, x=self.x or 0, y=self.y or 0)
        x, y = (-1 if each is None else each for each in (self.x, self.y))
        return (Step("pad", f"w={self.width}:h={self.height}:x={x}:y={y}:color={self.colour}"),)


class Rotate(_OfPictures):
    """Turns pictures clockwise. By quarters every pixel stays as it is; else the picture grows to hold what is turned.

    Args:
        degrees: how far.
        colour: of the corners, by FFmpeg's names or as `#rrggbb`.
    """

    def __init__(self, degrees: float, *, colour: str = "black") -> None:
        if not math.isfinite(degrees):
            raise ValueError(f"an angle is a number of degrees, not {degrees}")
        self.degrees, self.colour = degrees, colour

    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters."""
        angle = self.degrees % 360
        quarters = {
            0: (),
            90: (Step("transpose", "clock"),),
            180: (Step("hflip", ""), Step("vflip", "")),
            270: (Step("transpose", "cclock"),),
        }
        if angle in quarters:
            return quarters[int(angle)]
        turn = f"{angle}*PI/180"
        width, height = (f"ceil({each}({turn})/2)*2" for each in ("rotw", "roth"))  # even, as some pixels want it
        return (Step("rotate", f"a={turn}:ow={width}:oh={height}:c={self.colour}"),)


class FrameRate(_OfPictures):
    """Gives pictures at a rate: doubles some, or leaves some out, so that each moment shows the picture of its time.

    Args:
        rate: pictures in a second.
    """

    deterministic = False

    def __init__(self, rate: Rate) -> None:
        self.rate = Video(rate=rate).rate
        if self.rate is None:
            raise ValueError("FrameRate takes a number of pictures in a second")

    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters."""
        return (Step("fps", f"fps={self.rate}"),)


class _OfSound(_Filtering):
    in_ = Input(Audio())
    """Sound."""
    out = Output(Audio())
    """Sound."""


class Resample(_OfSound):
    """Brings sound to a rate, to channels, or to samples; what is not given stays as it is.

    Args:
        rate: samples in a second.
        layout: FFmpeg's name of the channels: "mono", "stereo", "5.1", ...
        samples: FFmpeg's name of the samples: "fltp", "s16", ...
    """

    def __init__(self, rate: int | None = None, *, layout: str | None = None, samples: str | None = None) -> None:
        _check_sizes(rate=rate)
        if layout is not None:
            channel_count(layout)  # it says what is wrong
        if samples is not None:
            sample_type(samples)
        self.rate, self.layout, self.samples = rate, layout, samples

    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters."""
        assert isinstance(form, Audio)
        wanted = {
            "sample_rates": self.rate or form.rate,
            "sample_fmts": self.samples or form.samples,
            "channel_layouts": self.layout or form.layout,
        }
        return (Step("aformat", ":".join(f"{key}={value}" for key, value in wanted.items())),)


class Normalize(_OfSound):
    """Brings sound to a loudness as it goes, by EBU R 128 (FFmpeg's `loudnorm`); it holds back three seconds.

    Args:
        loudness: the integrated loudness, in LUFS, -70 to -5.
        peak: the highest true peak, in dBTP, -9 to 0.
        range: the loudness range, in LU, 1 to 50.
    """

    def __init__(self, loudness: float = -16.0, *, peak: float = -1.5, range: float = 11.0) -> None:
        for what, value, low, high in (
            ("loudness", loudness, -70, -5),
            ("peak", peak, -9, 0),
            ("range", range, 1, 50),
        ):
            if not low <= value <= high:
                raise ValueError(f"{what} is {low} to {high}, not {value}")
        self.loudness, self.peak, self.range = loudness, peak, range

    def steps(self, form: Video | Audio) -> Steps:
        """Return the filters; `loudnorm` works at 192 kHz, and what comes out has the rate that came in."""
        assert isinstance(form, Audio)
        return (
            Step("loudnorm", f"I={self.loudness}:TP={self.peak}:LRA={self.range}"),
            Step("aformat", f"sample_rates={form.rate}:sample_fmts={form.samples}:channel_layouts={form.layout}"),
        )


def _check_even(name: str, form: Video | Audio, **sizes: int) -> None:
    """Refuse what FFmpeg would round silently: chroma of these pixels has half the size."""
    odd = [f"{what}={size}" for what, size in sizes.items() if size % 2]
    if odd and pixels_named(str(getattr(form, "pixels", ""))).planar:
        raise FormatError(f"{name}: {', '.join(odd)}: pictures in {form} have even sizes and places only: use rgb24")


def _check_sizes(**sizes: int | None) -> None:
    for what, size in sizes.items():
        if size is not None and (type(size) is not int or size < 1):
            raise ValueError(f"{what} is a whole number from 1 up, not {size!r}")
