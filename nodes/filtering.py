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

MAX_RATE: Final = 1000
"""Pictures in a second: a clock that is finer than that is no rate."""

_COLOURS: Final = {1: "bt709", 5: "smpte170m", 6: "smpte170m"}


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
        source: the filter that begins it. options: for that.
        base: the clock of the frames. rate: of pictures.
    """

    source: str
    options: tuple[tuple[str, str], ...]
    base: Fraction
    rate: Fraction | None = None


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
        self._count = 0  # pictures, or samples, that have gone in since the chain was built

    def feed(self, frame: Frame) -> Iterator[Frame]:
        """Yield what comes out when a frame goes in.

        Raises:
            FormatError: it is neither a picture nor sound, or the filters do not take it.
        """
        if not isinstance(frame, VideoFrame | AudioFrame):
            raise FormatError(f"{self._label} takes pictures and sound, not {type(frame).__name__}")
        inlet = _inlet_of(frame.format, _base_of(frame))
        if self._graph is None or self._graph.inlet != inlet:
            yield from self.flush()
            self._graph, self._count = _Graph(self._steps(frame.format), inlet, self._label), 0
        graph = self._graph
        given: Any = frame.to_av(copy=graph.draws) if isinstance(frame, VideoFrame) else frame.to_av()
        given.time_base = inlet.base
        if frame.pts is None:
            given.pts = self._count
        self._count += 1 if isinstance(frame, VideoFrame) else frame.array.shape[1]
        yield from graph.feed(given)

    def flush(self) -> Iterator[Frame]:
        """Yield what the filters still hold; what is fed after this begins anew."""
        graph, self._graph = self._graph, None
        if graph is not None:
            yield from graph.feed(None)

    def forget(self) -> None:
        """Throw away what the filters hold."""
        self._graph = None


class _Graph:
    """FFmpeg's filters for frames of one format.

    Attributes:
        inlet: what it is built for.
        draws: a filter may draw on the picture that it is given, when that is perhaps not held any more.
    """

    def __init__(self, steps: Steps, inlet: _Inlet, label: str) -> None:
        self.inlet = inlet
        self.draws = not all(step.name in _PROMPT for step in steps)
        self._label = label
        self._pixels: str | None = None
        if steps and steps[-1].name == "format":
            self._pixels, steps = _pixels_wanted(steps[-1]), steps[:-1]
        self._reformatter = VideoReformatter()
        self._graph = Graph()
        self._graph.threads = 1  # each node is a process, and that is what uses the processors
        options = dict(inlet.options)
        with _told(f"{label}: FFmpeg's {_written(steps)} does not take {_described(options)}"):
            self._source = end = self._graph.add(inlet.source, **options)
            for name, args in (*steps, *_ending(steps, options)):
                following = self._graph.add(name, args or None)
                end.link_to(following)
                end = following
            self._graph.configure()
        self._sink = end

    def feed(self, frame: av.VideoFrame | av.AudioFrame | None) -> Iterator[Frame]:
        """Yield what comes out when a frame goes in, or, for None, when nothing more does."""
        try:
            self._source.push(frame)
            while True:
                yield self._taken(self._sink.pull())
        except (BlockingIOError, EOFError):
            return
        except FFmpegError as error:
            raise FormatError(f"{self._label}: FFmpeg's filters have failed: {error.strerror}") from error

    def _taken(self, frame: Any) -> Frame:
        if isinstance(frame, av.AudioFrame):
            return AudioFrame.from_av(frame)
        pts, base = frame.pts, frame.time_base or self.inlet.base
        if self._pixels is not None:
            frame = convert(frame, self._pixels, self._reformatter)
        return VideoFrame.from_av(frame, rate=self._rate_at(base), pts=pts, time_base=base)

    def _rate_at(self, base: Fraction) -> Fraction | None:
        """Return the rate of pictures with that clock: filters that make a rate of their own have it as their clock."""
        return self.inlet.rate if base == self.inlet.base or 1 / base > MAX_RATE else 1 / base


@functools.lru_cache(maxsize=64)
def _inlet_of(form: Video | Audio, base: Fraction) -> _Inlet:
    if isinstance(form, Audio):
        sound = {
            "sample_rate": str(form.rate),
            "sample_fmt": str(form.samples),
            "channel_layout": str(form.layout),
            "time_base": str(base),
        }
        return _Inlet("abuffer", tuple(sound.items()), base)
    assert form.height is not None
    picture = {
        "video_size": f"{form.width}x{form.height}",
        "pix_fmt": str(form.pixels),
        "time_base": str(base),
        "pixel_aspect": "1/1",
    }
    if form.rate is not None:
        picture["frame_rate"] = str(form.rate)
    if pixels_named(str(form.pixels)).planar:
        picture |= {"colorspace": _COLOURS[tag_of(matrix_for(form.height))], "range": "tv"}
    return _Inlet("buffer", tuple(picture.items()), base, form.rate)


def _base_of(frame: VideoFrame | AudioFrame) -> Fraction:
    """Return the clock of a frame; one that has no time is counted by its rate."""
    if frame.pts is not None:
        return frame.time_base
    if not frame.format.rate:
        raise FormatError("the pictures have neither pts nor a rate: give VideoFrame(…, rate=25)")
    return 1 / Fraction(frame.format.rate)


def _ending(steps: Steps, options: Mapping[str, str]) -> list[Step]:
    """Return what a chain ends with: what gives frames as they came in, or at least as the bus carries them."""
    if not _gives_pictures(steps, options):
        samples = options.get("sample_fmt") or "|".join(SAMPLES)
        chosen = steps and steps[-1].name == "aformat"
        return [*([] if chosen else [Step("aformat", f"sample_fmts={samples}")]), Step("abuffersink", "")]
    return [Step("format", f"pix_fmts={options.get('pix_fmt', 'rgb24')}"), Step("buffersink", "")]


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
