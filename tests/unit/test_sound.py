"""Nodes that work on sound: pieces of one length, gain, levels, and where somebody speaks."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rmbus import AudioFrame, testing
from rmbus.errors import FormatError
from rmbus.nodes import Chunk, Gain, LevelMeter, Tone, VoiceActivity
from rmbus.testing import run_node


def ramp(samples: int, rate: int = 1000, at: int = 0, channels: int = 1) -> AudioFrame:
    """Return sound of which each sample tells its number."""
    numbers = np.arange(at, at + samples, dtype=np.float32)
    return AudioFrame(np.tile(numbers, (channels, 1)), rate, pts=at)


def told(frames: list[Any]) -> list[tuple[int, list[int]]]:
    """Return the times of frames and the numbers in them."""
    return [(frame.pts, frame.array[0].astype(int).tolist()) for frame in frames]


def test_a_tone_is_one_sine_from_frame_to_frame() -> None:
    frames = run_node(Tone(1000, layout="stereo", level_db=-12, duration_s=0.1, samples=1000))
    assert [(frame.pts, frame.array.shape) for frame in frames] == [(n, (2, 1000)) for n in range(0, 4000, 1000)] + [
        (4000, (2, 800))
    ]
    sound = np.concatenate([frame.array for frame in frames], axis=1)
    sine = 10 ** (-12 / 20) * np.sin(2 * np.pi * 1000 * np.arange(4800) / 48_000)
    assert np.allclose(sound, sine, atol=1e-6)


def test_silence_is_a_tone_too() -> None:
    (frame,) = run_node(Tone(0, duration_s=0.01, rate=8000))
    assert frame.array.tolist() == [[0.0] * 80]


def test_a_tone_at_its_own_speed() -> None:
    node = Tone(samples=4800, realtime=True)
    began = time.monotonic()
    frames = itertools.islice((frame for frame in node.process() if frame is not None), 4)
    assert [frame.pts for frame in frames] == [0, 4800, 9600, 14_400]
    assert time.monotonic() - began >= 0.3


def test_chunks_of_one_length_and_a_tail() -> None:
    frames = [ramp(3), ramp(1, at=3), ramp(5, at=4), ramp(1, at=9)]
    assert told(run_node(Chunk(4), frames)) == [(0, [0, 1, 2, 3]), (4, [4, 5, 6, 7]), (8, [8, 9])]


def test_a_large_frame_gives_many_chunks() -> None:
    out = run_node(Chunk(4), [ramp(2), ramp(17, at=2)])
    assert [frame.array.shape[1] for frame in out] == [4, 4, 4, 4, 3]
    assert np.concatenate([frame.array[0] for frame in out]).tolist() == list(range(19))


def test_a_tail_filled_with_silence() -> None:
    assert told(run_node(Chunk(4, pad=True), [ramp(5)]))[-1] == (4, [4, 0, 0, 0])
    (bytes_,) = run_node(Chunk(4, pad=True), [AudioFrame(np.array([[7, 9]], np.uint8), 1000)])
    assert bytes_.array.tolist() == [[7, 9, 128, 128]]


@pytest.mark.parametrize("other", [ramp(4, rate=2000, at=6), ramp(4, at=3, channels=2), ramp(4, at=30)])
def test_another_format_or_time_begins_a_new_sound(other: AudioFrame) -> None:
    """What is held comes out first, as it is."""
    out = run_node(Chunk(4), [ramp(3), other])
    assert told(out) == told([ramp(3), other])
    assert out[1].format == other.format


def test_a_clock_that_is_coarser_than_samples() -> None:
    """Milliseconds, as Matroska has them, at 44.1 kHz."""
    sound = np.zeros((1, 441), np.float32)
    frames = [AudioFrame(sound, 44_100, pts=10 * n, time_base=Fraction(1, 1000)) for n in range(4)]
    out = run_node(Chunk(100), frames)
    assert [frame.time_s for frame in out] == pytest.approx([n * 100 / 44_100 for n in range(len(out))], abs=1e-4)
    assert sum(frame.array.shape[1] for frame in out) == 4 * 441


def test_pieces_have_one_clock() -> None:
    """Whoever filters them need not begin anew."""
    frames = [
        AudioFrame(np.zeros((1, 1024), np.float32), 48_000, pts=p, time_base=Fraction(1, 1000)) for p in (0, 21, 43)
    ]
    out = run_node(Chunk(512), frames)
    assert {frame.time_base for frame in out} == {Fraction(1, 48_000)}
    assert [frame.pts for frame in out] == [0, 512, 1008, 1520, 2064, 2576]


def test_frames_of_no_samples() -> None:
    empty = AudioFrame(np.zeros((1, 0), np.float32), 48_000, pts=0)
    assert run_node(Chunk(4), [empty]) == []
    assert run_node(LevelMeter(), [empty]) == []
    assert run_node(VoiceActivity(), [empty])["activity"][0].value["is_speech"] is False


def test_sound_without_times() -> None:
    frames = [AudioFrame(np.ones((1, 3), np.float32), 1000) for _ in range(3)]
    out = run_node(Chunk(4), frames)
    assert [(frame.pts, frame.array.shape[1]) for frame in out] == [(None, 4), (None, 4), (None, 1)]


def test_an_interrupt_forgets_the_tail() -> None:
    node = Chunk(4)
    assert list(node.process(ramp(3))) == []
    node.interrupted()
    assert list(node.flush()) == []
    assert told(list(node.process(ramp(4, at=3)))) == [(3, [3, 4, 5, 6])]


@pytest.mark.parametrize(
    ("samples", "db", "louder"),
    [
        (np.array([[0.5, -0.25]], np.float32), 6.0205999, [[1.0, -0.5]]),
        (np.array([[0.9]], np.float32), 20, [[9.0]]),
        (np.array([[1000, -1000]], np.int16), -6.0205999, [[500, -500]]),
        (np.array([[30_000, -30_000]], np.int16), 6.0205999, [[32_767, -32_768]]),
        (np.array([[138, 118]], np.uint8), 6.0205999, [[148, 108]]),
        (np.array([[0.5]], np.float64), 0, [[0.5]]),
    ],
)
def test_gain(samples: Any, db: float, louder: list[list[float]]) -> None:
    (out,) = run_node(Gain(db), [AudioFrame(samples, 48_000)])
    assert out.array.dtype == samples.dtype
    assert np.allclose(out.array, louder, rtol=1e-6 if samples.dtype.kind == "f" else 0, atol=0)


def test_levels_of_a_tone_and_of_silence() -> None:
    """A sine at half of full scale has its peak at -6.02 dB and its RMS 3.01 dB below."""
    silence = [AudioFrame(np.zeros((2, 4800), np.float32), 48_000, pts=48_000 + 4800 * n) for n in range(2)]
    out = run_node(LevelMeter(0.1), [*testing.audio(10, samples=4800), *silence])
    assert [frame.time_s for frame in out] == pytest.approx([n / 10 for n in range(12)])
    for frame in out[:10]:
        assert frame.value["rms_db"] == pytest.approx([-9.03, -9.03], abs=0.01)
        assert frame.value["peak_db"] == pytest.approx([-6.02, -6.02], abs=0.01)
    assert [frame.value for frame in out[10:]] == [{"rms_db": [-120.0] * 2, "peak_db": [-120.0] * 2}] * 2


def test_levels_do_not_depend_on_the_samples() -> None:
    sound = testing.audio(1, samples=4800)[0].array
    (floats,) = run_node(LevelMeter(), [AudioFrame(sound, 48_000, pts=0)])
    (shorts,) = run_node(LevelMeter(), [AudioFrame((sound * 32_768).astype(np.int16), 48_000, pts=0)])
    assert shorts.value["rms_db"] == pytest.approx(floats.value["rms_db"], abs=0.01)


def test_levels_when_the_rate_changes() -> None:
    frames = [ramp(50), AudioFrame(np.ones((1, 300), np.float32), 2000, pts=100, time_base=Fraction(1, 2000))]
    assert [frame.time_s for frame in run_node(LevelMeter(0.1), frames)] == pytest.approx([0.0, 0.05, 0.15])


def speech(share: float, pts: int) -> AudioFrame:
    """Return 0.3 s of sound of which that share is loud."""
    sound = np.full((1, 4800), 0.001, np.float32)
    sound[:, : round(4800 * share)] = 0.2
    return AudioFrame(sound, 16_000, pts=pts)


def test_voice_activity_tells_of_each_frame() -> None:
    frames = [speech(share, 4800 * number) for number, share in enumerate((0.0, 0.5, 1.0))]
    out = run_node(VoiceActivity(), frames)
    assert [frame.pts for frame in out["audio"]] == [0, 4800, 9600]
    assert [(each.value["is_speech"], each.value["speech_ratio"]) for each in out["activity"]] == [
        (False, 0.0),
        (True, 0.5),
        (True, 1.0),
    ]
    assert [each.value["avg_energy"] for each in out["activity"]] == pytest.approx([0.001, 0.1005, 0.2], rel=1e-3)
    assert [each.time_s for each in out["activity"]] == pytest.approx([0, 0.3, 0.6])


def test_voice_activity_leaves_out_what_is_no_speech() -> None:
    frames = [speech(share, 4800 * number) for number, share in enumerate((0.0, 0.2, 0.5, 1.0))]
    out = run_node(VoiceActivity(share=0.3, only_speech=True), frames)
    assert [frame.pts for frame in out["audio"]] == [9600, 14_400]
    assert len(out["activity"]) == 4


def test_frames_that_are_shorter_than_a_window() -> None:
    frames = [AudioFrame(np.full((1, size), 0.5, np.float32), 16_000) for size in (1, 100, 481, 719, 721)]
    assert [each.value["speech_ratio"] for each in run_node(VoiceActivity(), frames)["activity"]] == [1.0] * 5


def test_parameters_that_are_none() -> None:
    for make in (
        lambda: Tone(24_000),
        lambda: Tone(level_db=3),
        lambda: Tone(samples=0),
        lambda: Chunk(0),
        lambda: Gain(float("inf")),
        lambda: Tone(duration_s=-1),
        lambda: LevelMeter(0),
        lambda: LevelMeter(float("inf")),
        lambda: VoiceActivity(2),
    ):
        with pytest.raises(ValueError, match=r"at least|or below|0 to 24000 Hz|decibels|longer than 0 s|0 to 1"):
            make()


def test_what_is_no_sound_is_refused_by_the_input() -> None:
    with pytest.raises(FormatError, match="Audio"):
        run_node(Gain(3), testing.video(1))
