"""For tests of nodes: run one node on some frames; make frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from rmbus.errors import PipelineError
from rmbus.node import Input, Node
from rmbus.pipeline import Pipeline

if TYPE_CHECKING:
    from rmbus.media import AudioFrame, VideoFrame
    from rmbus.runtime.inline import InlineRun


def run_node(
    node: Node, frames: Iterable[object] | Mapping[str, Iterable[object]] = (), *, on: str | Sequence[str] = "inline"
) -> Any:
    """Run a node on some frames, from `initialize` to `cleanup`, and return what it emits.

    Args:
        node: the node; it is initialized, run and cleaned up. A source takes no frames.
        frames: frames, arrays or any other values, for its only input; or `{port: frames}`, which are given in turns.
        on: where; other than inline only for a node with one input and one output.

    Returns:
        The list of the frames that it emits, `Interrupt()` among them where it emits one; `{port: list}` where it has
        several outputs.

    Raises:
        PipelineError: the node has no such input. NodeError: it failed; also of the original type.
    """
    pipeline = Pipeline([node])
    if on != "inline":
        if isinstance(frames, Mapping):
            raise PipelineError("run_node takes {port: frames} only with on='inline'")
        return list(pipeline.process(frames, on=on))
    return _run_inline(pipeline, frames)


def video(n: int, *, width: int = 64, height: int = 48, rate: int = 25) -> list[VideoFrame]:
    """Return n different pictures of rgb24 at `rate`: a gradient that moves, with the number in its corner.

    Args:
        n: how many.
        width, height: in pixels.
        rate: pictures in a second.
    """
    import numpy as np

    from rmbus.media import VideoFrame

    rows, columns = np.mgrid[0:height, 0:width]
    found: list[VideoFrame] = []
    for number in range(n):
        planes = [columns * 255 // max(width - 1, 1) + 5 * number, rows * 255 // max(height - 1, 1), rows + columns]
        picture = np.stack([plane % 256 for plane in planes], axis=-1).astype(np.uint8)
        picture[0, 0] = (number >> 16 & 255, number >> 8 & 255, number & 255)
        found.append(VideoFrame(picture, rate=rate, pts=number, seq=number))
    return found


def audio(
    n: int, *, samples: int = 1024, rate: int = 48_000, channels: int = 2, tone_hz: float = 440.0
) -> list[AudioFrame]:
    """Return n frames of one tone that goes on from frame to frame, float32, at half of full scale.

    Args:
        n: how many.
        samples: samples of each channel in a frame.
        rate: samples in a second.
        channels: how many; the second is an octave higher, and so on.
        tone_hz: the pitch of the first channel.
    """
    import numpy as np

    from rmbus.media import AudioFrame

    times = np.arange(n * samples) / rate
    pitches = tone_hz * 2.0 ** np.arange(channels)
    sound = (0.5 * np.sin(2 * np.pi * pitches[:, None] * times)).astype(np.float32)
    return [
        AudioFrame(sound[:, first : first + samples], rate, pts=first, seq=first // samples)
        for first in range(0, n * samples, samples)
    ]


def _run_inline(pipeline: Pipeline, frames: Iterable[object] | Mapping[str, Iterable[object]]) -> Any:
    from rmbus.runtime.inline import Inline, Turn

    given = _by_port(pipeline, frames)
    outputs = pipeline.open_outputs
    emitted: dict[str, list[object]] = {port.name: [] for port in outputs}
    inline = Inline(pipeline)
    try:
        run = inline.begin(feeds=[port for port, _ in given], collects=outputs)
        waiting = deque(given)
        while (turn := run.advance()) is not Turn.ENDED:
            if turn is Turn.WANTS_ITEM:
                _give_next(run, waiting)
            elif not isinstance(turn, Turn):
                port, value = turn
                emitted[port.name].append(value)
    except BaseException as error:
        inline.abandon(error)
        raise
    inline.close()
    return emitted if len(emitted) > 1 else next(iter(emitted.values()), list[object]())


def _by_port(
    pipeline: Pipeline, frames: Iterable[object] | Mapping[str, Iterable[object]]
) -> list[tuple[Input, Iterator[object]]]:
    inputs = {port.name: port for port in pipeline.open_inputs}
    listed = ", ".join(inputs) or "none"
    if isinstance(frames, Mapping):
        named = cast("Mapping[str, Iterable[object]]", frames)
        unknown = [name for name in named if name not in inputs]
        if unknown:
            raise PipelineError(f"there is no input {unknown[0]!r}; inputs: {listed}")
        return [(port, iter(named.get(name, ()))) for name, port in inputs.items()]
    if len(inputs) == 1:
        return [(port, iter(frames)) for port in inputs.values()]
    if inputs or list(frames):
        raise PipelineError(f"give the frames as {{port: frames}}; inputs: {listed}")
    return []


def _give_next(run: InlineRun, waiting: deque[tuple[Input, Iterator[object]]]) -> None:
    """Feed the port whose turn it is, or tell it that its frames are over."""
    port, items = waiting.popleft()
    for item in items:
        run.feed(port, item)
        waiting.append((port, items))
        return
    run.end(port)
