"""Frames through chains of FFmpeg's filters: what Filter, Scale, Normalize and the like do with it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Mapping
from fractions import Fraction
from typing import Any, Final, NamedTuple, TypeAlias

import attrs
import av
import av.logging
from av.error import FFmpegError
from av.filter import Graph, filters_available
from av.video.reformatter import VideoReformatter

from rmbus.errors import FormatError, PipelineError
from rmbus.formats import Audio, Video
from rmbus.layouts import PIXELS, SAMPLES, convert, matrix_for, pixels_named, tag_of
from rmbus.media import AudioFrame, Frame, VideoFrame

# fmt: off
_PROMPT: Final = frozenset({
    "crop", "eq", "format", "hflip", "hue", "lut", "lutrgb", "lutyuv", "negate", "null", "pad", "rotate", "scale",
    "setdar", "setpts", "setsar", "transpose", "vflip",
})
# fmt: on
"""Filters that have done with a picture when they give theirs: nothing of it is held that another could draw on."""

_COLOURS: Final = {1: "bt709", 6: "smpte170m"}
_RATES: Final = frozenset({"fps", "framerate", "minterpolate"})
"""Filters that give pictures at a rate of their own, and have it as their clock."""


class Step(NamedTuple):
    """One filter of a chain: its name, and its options as they are written."""

    name: str
    options: str


Steps: TypeAlias = tuple[Step, ...]
"""A chain: what one gives goes into the next."""


def parse_chain(text: str) -> Steps:
    r"""Return the filters of a chain, written as FFmpeg's documentation has it: `scale=640:-2,hflip`.

    Quotes and backslashes protect commas, as there ("Notes on filtergraph escaping").

    Raises:
        PipelineError: it is no chain, or a filter is not known.
    """
    steps: list[Step] = []
    for word in _words(text):
        name, _, options = word.partition("=")
        name = name.strip()
        if not name:
            raise PipelineError(f"{text!r} is no chain of filters: one of them has no name; write 'scale=640:-2,hflip'")
        if name.partition("@")[0] not in filters_available:
            raise PipelineError(f"{text!r}: FFmpeg has no filter {name!r} here; `ffmpeg -filters` tells what there is")
        steps.append(Step(name.partition("@")[0], options.strip()))
    if steps[-1].name == "format":
        _pixels_wanted(steps[-1])  # it says what is wrong
    return tuple(steps)


def _words(text: str) -> list[str]:
    """Split at commas, and take away one level of quotes and backslashes, as `av_get_token` of libavutil does."""
    words, word, quoted = [], "", False
    letters = iter(text)
    for letter in letters:
        if quoted:
            quoted = letter != "'"
            word += "" if letter == "'" else letter
        elif letter == "\\":
            word += next(letters, "\\")
        elif letter == "'":
            quoted = True
        elif letter in "[];":
            raise PipelineError(
                f"{text!r} is no chain of filters, for it has {letter!r}: a chain has one input and one output; "
                "join nodes where ways part, and put the letter into quotes where an option has it"
            )
        elif letter == ",":
            words.append(word)
            word = ""
        else:
            word += letter
    if quoted:
        raise PipelineError(f"{text!r} is no chain of filters: a quote is not closed")
    return [*words, word]


@attrs.frozen
class _Inlet:
    """What a graph is built for; frames of which one of these differs need another graph.

    Attributes:
        source: the filter that begins it. options: for that, but its clock. rate: pictures or samples in a second.
    """

    source: str
    options: tuple[tuple[str, str], ...]
    rate: Fraction | None


class Chain:
    """A chain of filters, built for the first frame, and built anew when a frame of another format comes.

    Pictures leave in the pixels in which they came, sound in its samples, unless the chain ends with `format` or
    `aformat`.

    Args:
        steps: returns the filters for frames of a format. label: whose input it is, for errors.
    """

    def __init__(self, steps: Callable[[Video | Audio], Steps], label: str) -> None:
        self._steps = steps
        self._label = label
        self._graph: _Graph | None = None

    def feed(self, frame: Frame) -> Iterator[Frame]:
        """Yield what comes out when a frame goes in.

        Raises:
            FormatError: it is neither a picture nor sound, or the filters do not take it.
        """
        if not isinstance(frame, VideoFrame | AudioFrame):
            raise FormatError(f"{self._label} takes pictures and sound, not {type(frame).__name__}")
        inlet, base = _inlet_of(frame.format), self._base_of(frame)
        if self._graph is None or self._graph.inlet != inlet or not self._graph.tells(base):
            yield from self.flush()
            self._graph = _Graph(self._steps(frame.format), inlet, base, self._label)
        yield from self._graph.feed(frame)

    def flush(self) -> Iterator[Frame]:
        """Yield what the filters still hold; what is fed after this begins anew."""
        graph, self._graph = self._graph, None
        if graph is not None:
            yield from graph.feed(None)

    def forget(self) -> None:
        """Throw away what the filters hold."""
        self._graph = None

    def _base_of(self, frame: VideoFrame | AudioFrame) -> Fraction:
        """Return the clock that a frame needs: of sound its samples; of pictures without a time their rate."""
        rate = frame.format.rate
        if isinstance(frame, VideoFrame) and frame.pts is not None:
            return frame.time_base
        if not rate:
            raise FormatError(f"{self._label}: a picture has neither pts nor a rate: give VideoFrame(…, rate=25)")
        return 1 / Fraction(rate)


class _Graph:
    """FFmpeg's filters for frames of one format.

    Attributes:
        inlet: what it is built for. base: the clock of what goes in.
    """

    def __init__(self, steps: Steps, inlet: _Inlet, base: Fraction, label: str) -> None:
        self.inlet = inlet
        self.base = base
        self._label = label
        self._draws = not all(step.name in _PROMPT for step in steps)  # on a picture that is perhaps not held any more
        self._has_rate = any(step.name in _RATES for step in steps)
        self._count = 0  # pictures, or samples, that have gone in
        self._reformatter = VideoReformatter()
        self._graph = Graph()
        self._graph.threads = 1  # each node is a process, and that is what uses the processors
        options = dict(inlet.options)
        with _told(f"{label}: FFmpeg's {_written(steps)} does not take {_described(options)}"):
            steps, self._pixels, ending = _ended(steps, options)
            self._source = end = self._graph.add(inlet.source, **options, time_base=str(base))
            for name, args in (*steps, *ending):
                following = self._graph.add(name, args or None)
                end.link_to(following)
                end = following
            self._graph.configure()
        self._sink = end

    def feed(self, frame: VideoFrame | AudioFrame | None) -> Iterator[Frame]:
        """Yield what comes out when a frame goes in, or, for None, when nothing more does."""
        try:
            self._source.push(None if frame is None else self._given(frame))
            while True:
                yield self._taken(self._sink.pull())
        except (BlockingIOError, EOFError):
            return
        except FFmpegError as error:
            raise FormatError(f"{self._label}: FFmpeg's filters have failed: {error.strerror}") from error

    def tells(self, base: Fraction) -> bool:
        """Whether its clock tells all times of another one."""
        return base == self.base or (base / self.base).denominator == 1

    def _given(self, frame: VideoFrame | AudioFrame) -> Any:
        given: Any = frame.to_av(copy=self._draws) if isinstance(frame, VideoFrame) else frame.to_av()
        if frame.pts is not None:
            given.pts = round(frame.pts * frame.time_base / self.base)
        else:
            assert self.inlet.rate is not None
            given.pts = round(self._count / self.inlet.rate / self.base)
        given.time_base = self.base
        self._count += 1 if isinstance(frame, VideoFrame) else frame.array.shape[1]
        return given

    def _taken(self, frame: Any) -> Frame:
        if isinstance(frame, av.AudioFrame):
            return AudioFrame.from_av(frame)
        pts, base = frame.pts, frame.time_base or self.base
        if self._pixels is not None:
            frame = convert(frame, self._pixels, self._reformatter)
        return VideoFrame.from_av(frame, rate=self._rate_at(base), pts=pts, time_base=base)

    def _rate_at(self, base: Fraction) -> Fraction | None:
        """Return the rate of pictures with that clock; None where a filter has made it, and does not tell."""
        if self._has_rate:
            return 1 / base
        return self.inlet.rate if base == self.base else None


@functools.lru_cache(maxsize=64)
def _inlet_of(form: Video | Audio) -> _Inlet:
    if isinstance(form, Audio):
        sound = {"sample_rate": str(form.rate), "sample_fmt": str(form.samples), "channel_layout": str(form.layout)}
        return _Inlet("abuffer", tuple(sound.items()), Fraction(form.rate or 0))
    assert form.height is not None
    picture = {"video_size": f"{form.width}x{form.height}", "pix_fmt": str(form.pixels), "pixel_aspect": "1/1"}
    if form.rate is not None:
        picture["frame_rate"] = str(form.rate)
    if pixels_named(str(form.pixels)).planar:
        picture |= {"colorspace": _COLOURS[tag_of(matrix_for(form.height))], "range": "tv"}
    return _Inlet("buffer", tuple(picture.items()), form.rate)


def _ended(steps: Steps, options: Mapping[str, str]) -> tuple[Steps, str | None, list[Step]]:
    """Return a chain without a closing `format`, the pixels that this names, and what ends the chain instead.

    Pixels with chroma of half the size are not made by the filters, which do not know the matrix that frames have by
    their height: `convert` makes them of what comes out.
    """
    pixels = _pixels_wanted(steps[-1]) if steps and steps[-1].name == "format" else None
    before = steps if pixels is None else steps[:-1]
    if not _gives_pictures(before, options):  # a closing `format`, which FFmpeg refuses here, stays
        samples = options.get("sample_fmt") or "|".join(SAMPLES)
        is_chosen = bool(steps) and steps[-1].name == "aformat"
        aformat = [] if is_chosen else [Step("aformat", f"sample_fmts={samples}")]
        return steps, None, [*aformat, Step("abuffersink", "")]
    given = options.get("pix_fmt", "rgb24")
    ends = given if pixels is None else pixels
    if pixels is not None and pixels_named(pixels).planar and not pixels_named(given).planar:
        ends = "rgb24"
    return before, pixels, [Step("format", f"pix_fmts={ends}"), Step("buffersink", "")]


def _gives_pictures(steps: Steps, options: Mapping[str, str]) -> bool:
    """Tell whether pictures come out: it is tried, for PyAV does not say what a filter gives."""
    if not steps:
        return "pix_fmt" in options
    graph = Graph()
    last = graph.add(steps[-1].name, steps[-1].options or None)
    try:
        last.link_to(graph.add("buffersink"))
    except FFmpegError:
        return False
    return True


def _pixels_wanted(step: Step) -> str:
    names = step.options.removeprefix("pix_fmts=").split("|")
    found = [name for name in names if name in PIXELS]
    if not found:
        raise PipelineError(f"{_written((step,))}: frames carry {', '.join(PIXELS)} only")
    return found[0]


def _written(steps: Steps) -> str:
    return ",".join(f"{name}={options}" if options else name for name, options in steps) or "null"


def _described(options: Mapping[str, str]) -> str:
    return " ".join(
        options[key]
        for key in ("pix_fmt", "video_size", "sample_fmt", "sample_rate", "channel_layout")
        if key in options
    )


@contextlib.contextmanager
def _told(what: str) -> Generator[None]:
    """Raise what FFmpeg refuses with the words that it puts into its log."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines:
            yield
    except (FFmpegError, ValueError) as error:
        words = "; ".join(line.strip() for _, _, line in lines if line.strip())
        raise FormatError(f"{what}: {words or getattr(error, 'strerror', '') or error}") from error
    finally:
        av.logging.set_level(level)
