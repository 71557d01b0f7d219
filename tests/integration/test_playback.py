"""Parts of films, and films again and again: which pictures come, and when."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmbus import AudioFrame, Packet, VideoFrame
from rmbus.nodes import MediaReader, MediaWriter, TestPattern, Tone
from rmbus.testing import run_node

pytestmark = pytest.mark.media

RATE = 25
PICTURES = 50


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of pictures that tell their number, with a key frame each 12, and a tone."""
    path = tmp_path_factory.mktemp("films") / "film.mkv"
    writer = MediaWriter(path, audio_codec="flac", video_options={"g": "12", "crf": "10"})
    pictures = TestPattern(640, 360, RATE, frames=PICTURES) >> writer.video
    (pictures | (Tone(440, duration_s=2.0) >> writer.audio)).run(on="inline")
    return path


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures, and nothing else."""
    path = tmp_path_factory.mktemp("films") / "silent.mp4"
    (TestPattern(640, 360, RATE, frames=10) >> MediaWriter(path).video).run(on="inline")
    return path


def numbers(frames: list[VideoFrame]) -> list[int]:
    return [TestPattern.number(frame.array) for frame in frames]


def endless(node: MediaReader, port: str, count: int) -> list[Any]:
    """Return the first frames of a port of a reader that never ends."""
    node.joined_outputs = frozenset({port})
    node.initialize()
    try:
        values: Iterator[Any] = (value for value in node.process() if value is not None)
        return [frame for _, frame in itertools.islice(values, count)]
    finally:
        node.cleanup()


@pytest.mark.parametrize(
    ("start", "duration"), [(0.5, 0.4), (0.0, 0.4), (0.28, 0.04), (1.3, None), (0.48, 0.04), (0.96, 9.0)]
)
def test_a_part_begins_and_ends_where_it_should(film: Path, start: float, duration: float | None) -> None:
    """To the picture, wherever key frames are; its times count from 0."""
    out = run_node(MediaReader(film, start_s=start, duration_s=duration))
    end = min(2.0, start + (duration or 9.0))
    wanted = [n for n in range(PICTURES) if Fraction(str(start)) <= Fraction(n, RATE) < Fraction(str(round(end, 3)))]
    assert numbers(out["video"]) == wanted
    assert [frame.time_s for frame in out["video"]] == pytest.approx([n / RATE - start for n in wanted], abs=0.001)
    sound = out["audio"]
    frame_s = max(frame.array.shape[1] for frame in sound) / 48_000 if sound else 0.1
    heard = sum(frame.array.shape[1] for frame in sound) / 48_000
    assert abs(heard - (end - start)) <= frame_s + 0.001
    assert not sound or 0 <= sound[0].time_s < frame_s


def test_sound_and_pictures_of_a_part_stay_together(film: Path) -> None:
    """The tone tells the time that each sample had in the film: its phase is that of its time now and `start`."""
    sound: list[AudioFrame] = run_node(MediaReader(film, start_s=0.73))["audio"]
    first = sound[0]
    times = 0.73 + (first.time_s or 0) + np.arange(1000) / 48_000
    assert np.allclose(
        first.array[0, :1000] / 32_768, 0.501 * np.sin(2 * np.pi * 440 * times), atol=0.07
    )  # the clock has 1 ms


def test_packets_of_a_part_begin_where_decoding_can(film: Path) -> None:
    for start in (0.5, 0.96):  # between two key frames, and at one
        packets: list[Packet] = run_node(MediaReader(film, start_s=start))["packets"]
        assert packets[0].key
        assert packets[0].time_s == pytest.approx(24 / RATE - start, abs=0.001)
        assert len(packets) == PICTURES - 24


def test_a_part_behind_the_end_is_empty(film: Path) -> None:
    assert run_node(MediaReader(film, start_s=60)) == {"video": [], "audio": [], "packets": []}


def test_again_and_again_with_times_that_go_on(silent: Path) -> None:
    frames = endless(MediaReader(silent, loop=True), "video", 35)
    assert numbers(frames) == [n % 10 for n in range(35)]
    assert [frame.time_s for frame in frames] == pytest.approx([n / RATE for n in range(35)])


def test_a_part_again_and_again(silent: Path) -> None:
    frames = endless(MediaReader(silent, start_s=0.08, duration_s=0.12, loop=True), "video", 8)
    assert numbers(frames) == [2, 3, 4, 2, 3, 4, 2, 3]
    assert [frame.time_s for frame in frames] == pytest.approx([n / RATE for n in range(8)])


def test_packets_again_and_again_can_be_written(silent: Path, tmp_path: Path) -> None:
    """Their decoding times go on, too."""
    packets: list[Packet] = endless(MediaReader(silent, loop=True), "packets", 20)
    decoded = [Fraction(packet.dts or 0) * packet.time_base for packet in packets]
    assert decoded == sorted(set(decoded))
    run_node(MediaWriter(tmp_path / "twice.mp4"), {"packets": packets})
    assert numbers(run_node(MediaReader(tmp_path / "twice.mp4"))["video"]) == [*range(10), *range(10)]


def test_a_film_of_nothing_does_not_go_round_for_ever(tmp_path: Path) -> None:
    """A sound alone, of which the pictures are asked for."""
    (Tone(duration_s=0.1) >> MediaWriter(tmp_path / "sound.wav").audio).run(on="inline")
    assert endless(MediaReader(tmp_path / "sound.wav", loop=True), "video", 1) == []


def test_times_that_are_none() -> None:
    nan, inf = float("nan"), float("inf")
    wrong: list[dict[str, Any]] = [{"start_s": -1}, {"start_s": nan}, {"duration_s": 0}, {"duration_s": inf}]
    for given in wrong:
        with pytest.raises(ValueError, match=r"start_s is a time from 0 on|duration_s is a time above 0"):
            MediaReader("film.mp4", **given)
