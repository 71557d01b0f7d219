"""A film whose sound is ten seconds ahead of its pictures, in the shape of the demo: it does not deadlock."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from streams import Negative

from rmbus.nodes import MediaReader, MediaWriter

pytestmark = [pytest.mark.slow, pytest.mark.media, pytest.mark.timeout(60)]  # real films and processes

AHEAD_S = 10
PICTURES = 30


def make_film(path: Path) -> None:
    """Write a film in whose file ten seconds of sound come before the first picture."""
    with av.open(str(path), "w") as film:
        sound = film.add_stream("aac", rate=8000, layout="mono")
        video = film.add_stream("mpeg4", rate=25, width=64, height=48)
        video.pix_fmt = "yuv420p"
        silence = np.zeros((1, 8000), np.float32)
        for second in range(AHEAD_S + 2):
            frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
            frame.rate, frame.pts, frame.time_base = 8000, second * 8000, Fraction(1, 8000)
            film.mux(sound.encode(frame))
        film.mux(sound.encode(None))
        for number in range(PICTURES):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), "rgb24")
            picture.pts, picture.time_base = AHEAD_S * 25 + number, Fraction(1, 25)
            film.mux(video.encode(picture))
        film.mux(video.encode(None))


def count(path: Path) -> tuple[int, int]:
    """Return how many pictures and samples a film has."""
    with av.open(str(path)) as film:
        pictures = sum(1 for _ in film.decode(video=0))
    with av.open(str(path)) as film:
        samples = sum(frame.samples for frame in film.decode(audio=0))
    return pictures, samples


def test_sound_ten_seconds_ahead(tmp_path: Path) -> None:
    """Every picture and all of the sound arrive."""
    source, made = tmp_path / "ahead.mkv", tmp_path / "made.mkv"
    make_film(source)
    reader, negative, writer = MediaReader(str(source)), Negative(), MediaWriter(str(made))
    report = ((reader.video >> negative >> writer.video) | (reader.audio >> writer.audio)).run()
    assert report.dropped == {}
    pictures, samples = count(made)
    assert pictures == PICTURES
    assert samples >= (AHEAD_S + 2) * 8000
