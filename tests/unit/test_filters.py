"""Pictures and sound through FFmpeg's filters: exact where an oracle is exact, and in time."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from rmbus import AudioFrame, VideoFrame, testing
from rmbus.errors import FormatError, PipelineError
from rmbus.nodes import Convert, Crop, Filter, FrameRate, Normalize, Pad, Resample, Rotate, Scale
from rmbus.nodes.filtering import Step, parse_chain
from rmbus.testing import run_node

Sound = NDArray[np.float32]


def grid(width: int, height: int) -> VideoFrame:
    """Return a picture in which each pixel tells its place."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint8)
    return VideoFrame(np.stack([columns, rows, rows + columns], axis=-1), rate=25, pts=0)


def pieces(sound: Sound, sizes: list[int], rate: int = 48_000, base: Fraction | None = None) -> list[AudioFrame]:
    """Cut sound into frames of these sizes, again and again."""
    found: list[AudioFrame] = []
    at = number = 0
    while at < sound.shape[1]:
        size = sizes[number % len(sizes)]
        found.append(AudioFrame(sound[:, at : at + size], rate, pts=at, time_base=base or Fraction(1, rate)))
        at, number = at + size, number + 1
    return found


def whole(frames: list[Any]) -> Any:
    """Return the sound of frames, after looking whether each begins where the one before it ends."""
    at = frames[0].pts * frames[0].time_base
    for frame in frames:
        assert frame.pts * frame.time_base == at
        at += Fraction(frame.array.shape[1], frame.rate)
    return np.concatenate([frame.array for frame in frames], axis=1)


def tones(seconds: float, *pitches: float, rate: int = 48_000) -> Sound:
    times = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * pitch * times) for pitch in pitches]).astype(np.float32)


def resampled(sound: Sound, layout: str, rate: int, *, to: int, into: str) -> Any:
    """Return what PyAV's resampler makes of sound in one go."""
    resampler = av.AudioResampler("fltp", into, to)
    frame = av.AudioFrame.from_ndarray(sound, "fltp", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    return np.concatenate(
        [each.to_ndarray() for each in (*resampler.resample(frame), *resampler.resample(None))], axis=1
    )


# --- chains ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("hflip", [("hflip", "")]),
        (" scale = 640:-2 , hflip ", [("scale", "640:-2"), ("hflip", "")]),
        (r"scale=w='if(gt(iw\,3),2,4)'", [("scale", r"w=if(gt(iw\,3),2,4)")]),
        (r"scale=w=if(gt(iw\,3)\,2\,4)", [("scale", "w=if(gt(iw,3),2,4)")]),
        ("pan=mono|c0=c0,volume@loud=2", [("pan", "mono|c0=c0"), ("volume", "2")]),
    ],
)
def test_a_chain_is_read_as_ffmpeg_reads_it(text: str, steps: list[tuple[str, str]]) -> None:
    assert parse_chain(text) == tuple(Step(*step) for step in steps)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no name"),
        ("hflip,,vflip", "has no name"),
        ("hflop", "FFmpeg has no filter 'hflop'"),
        ("[in]hflip", "has '['"),
        ("hflip;vflip", "has ';'"),
        ("scale='3", "a quote is not closed"),
        ("hflip,format=gbrp", "format=gbrp: frames carry rgb24"),
    ],
)
def test_what_is_no_chain_is_refused_where_it_is_written(text: str, words: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Filter(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("chain", "frames", "words"),
    [
        ("scale=widt=3", testing.video(1), "scale=widt=3 does not take rgb24 64x48: No such option: widt"),
        ("crop=900:10", testing.video(1), "Invalid too big or non positive size for width '900'"),
        ("volume=2", testing.video(1), "Media type mismatch"),
        ("volume=1,format=gray", testing.audio(1), "Media type mismatch"),
        ("hflip", testing.audio(1), "does not take fltp 48000 stereo: Media type mismatch"),
        ("split", testing.video(1), "does not take rgb24 64x48"),
        ("hflip", [{"a": 1}], "input 'in' of filter takes pictures and sound, not Data"),
        ("fps=10", [VideoFrame(testing.video(1)[0].array)], "neither pts nor a rate"),
    ],
)
def test_what_the_filters_do_not_take_is_told_in_ffmpegs_words(chain: str, frames: list[Any], words: str) -> None:
    with pytest.raises(FormatError) as caught:
        run_node(Filter(chain), frames)
    assert words in str(caught.value)


def test_a_chain_may_end_in_another_format() -> None:
    (gray,) = run_node(Filter("hflip,format=pix_fmts=gbrp|gray"), [grid(32, 16)])
    assert gray.format.pixels == "gray"
    (shorts,) = run_node(Filter("volume=0.5,aformat=sample_fmts=s16"), testing.audio(1))
    assert shorts.format.samples == "s16"


def test_what_a_chain_makes_survives_its_end() -> None:
    """Colours of a gray picture, the alpha of one without."""
    gray = VideoFrame(np.full((16, 32), 128, np.uint8), pts=0)
    (coloured,) = run_node(Filter("format=rgb24,colorize=hue=120,format=rgb24"), [gray])
    assert len(np.unique(coloured.array[0, 0])) > 1
    (planar,) = run_node(Filter("format=rgb24,colorize=hue=120,format=yuv420p"), [gray])
    assert np.abs(planar.to_av().to_ndarray(format="rgb24").astype(int) - coloured.array).max() <= 4
    white = VideoFrame(np.full((16, 32, 3), 255, np.uint8), pts=0)
    (clear,) = run_node(Filter("colorkey=white,format=rgba"), [white])
    assert (clear.array[..., 3] == 0).all()


def test_clocks_that_change() -> None:
    """Sound goes on in one piece; so do pictures, where the clock that stands can tell the times."""
    sound = tones(0.2, 440)
    frames = pieces(sound, [960])
    frames = [
        frame.stamped(pts=20 * n, time_base=Fraction(1, 1000)) if n % 2 else frame for n, frame in enumerate(frames)
    ]
    out = whole(run_node(Resample(16_000), frames))
    assert np.array_equal(out, resampled(sound, "mono", 48_000, to=16_000, into="mono"))
    first, second, third = testing.video(3)
    shown = [
        first.stamped(pts=0, time_base=Fraction(1, 1000)),
        second,
        third.stamped(pts=80, time_base=Fraction(1, 1000)),
    ]
    out = run_node(Filter("reverse"), shown)
    assert [frame.time_s for frame in out] == [0, 0.04, 0.08]
    assert np.array_equal(out[0].array, third.array)


def test_a_rate_is_told_where_it_is_known() -> None:
    frames = testing.video(10)
    assert run_node(Filter("hflip"), frames)[0].format.rate == 25
    assert run_node(Filter("fps=5,hflip"), frames)[0].format.rate == 5
    assert run_node(Filter("yadif"), frames)[0].format.rate in (None, 25)
    bare = [VideoFrame(frame.array, pts=n, time_base=Fraction(1, 25)) for n, frame in enumerate(frames)]
    assert run_node(FrameRate(25), bare)[0].format.rate == 25


@pytest.mark.parametrize("node", [Crop(21, 10), Crop(20, 10, 3, 0), Pad(71, 50), Pad(70, 50, x=3)])
def test_what_planar_pixels_cannot_have_is_refused(node: Crop | Pad) -> None:
    """FFmpeg would round it."""
    planar = VideoFrame.from_av(grid(64, 48).to_av(), "yuv420p")
    with pytest.raises(FormatError, match="even sizes and places only"):
        run_node(node, [planar])
    assert run_node(node, [grid(64, 48)])


def test_planar_pictures_may_be_turned() -> None:
    planar = VideoFrame.from_av(grid(64, 48).to_av(), "yuv420p")
    (out,) = run_node(Rotate(45), [planar])
    assert (out.format.width, out.format.height) == (80, 80)


def test_sound_may_become_pictures() -> None:
    shown = run_node(Filter("showwaves=size=64x48:rate=25"), testing.audio(20))
    assert {(frame.format.pixels, frame.format.width, frame.format.height) for frame in shown} == {("rgb24", 64, 48)}
    assert {round(later.time_s - frame.time_s, 6) for frame, later in itertools.pairwise(shown)} == {0.04}


@pytest.mark.parametrize("height", [360, 720])
def test_colours_stay_what_they_are_on_the_way_through_others(height: int) -> None:
    """`hue` works on luma and chroma, whose matrix depends on the height."""
    frame = testing.video(1, width=2 * height, height=height)[0]
    (rgb,) = run_node(Filter("hue=s=1"), [frame])
    assert np.abs(rgb.array.astype(int) - frame.array).max() <= 3
    planar = VideoFrame.from_av(frame.to_av(), "yuv420p", rate=25)
    (same,) = run_node(Filter("hue=s=1"), [planar])
    assert np.array_equal(same.array, planar.array)
    (small,) = run_node(Filter("scale=640:360"), [planar])
    (oracle,) = run_node(Filter("scale=640:360"), [frame])
    back = small.to_av().to_ndarray(format="rgb24").astype(int)
    assert np.abs(back - oracle.array).mean() < 4


def test_no_filter_draws_on_what_others_see() -> None:
    """A picture in memory that nobody may write to, held back by a filter before one that draws."""
    frames = [grid(64, 48).stamped(pts=number) for number in range(4)]
    before = [frame.array.copy() for frame in frames]
    drawn = run_node(Filter("reverse,drawbox=color=red:t=fill"), [*frames])
    assert len(drawn) == 4
    assert [each.array[24, 32].tolist() for each in drawn] == [[255, 0, 0]] * 4
    assert all(np.array_equal(frame.array, old) for frame, old in zip(frames, before, strict=True))


def test_another_format_in_mid_stream() -> None:
    """What the filters hold of the one comes out before the other."""
    small = [frame.stamped(pts=number) for number, frame in enumerate(testing.video(3, width=32, height=16))]
    large = [frame.stamped(pts=3 + number) for number, frame in enumerate(testing.video(3, width=64, height=16))]
    out = run_node(Filter("reverse,hflip"), [*small, *large])
    assert [frame.format.width for frame in out] == [32] * 3 + [64] * 3
    assert np.array_equal(out[0].array, small[2].array[:, ::-1])
    assert np.array_equal(out[3].array, large[2].array[:, ::-1])


def test_pictures_without_times_are_counted_by_their_rate() -> None:
    frames = [VideoFrame(grid(32, 16).array, rate=50) for _ in range(50)]
    out = run_node(FrameRate(25), frames)
    assert [frame.time_s for frame in out] == [number / 25 for number in range(25)]


def test_an_interrupt_forgets_what_is_held() -> None:
    node = Filter("reverse")
    node.initialize()
    assert list(node.process(grid(32, 16))) == []
    node.interrupted()
    assert list(node.flush()) == []


# --- pictures -------------------------------------------------------------------------------------------------------


def test_the_header_stays_with_its_picture() -> None:
    frames = [frame.stamped(captured_ns=1000 + frame.seq) for frame in testing.video(3)]
    out = run_node(Scale(32), frames)
    assert [(frame.pts, frame.time_base, frame.captured_ns) for frame in out] == [
        (frame.pts, frame.time_base, frame.captured_ns) for frame in frames
    ]
    assert out[0].format.rate == 25


@pytest.mark.parametrize(
    ("node", "size"),
    [
        (Scale(32), (32, 24)),
        (Scale(height=30), (40, 30)),
        (Scale(33, 7), (33, 7)),
        (Scale(32, 32, fit="contain"), (32, 32)),
        (Scale(32, 32, fit="cover"), (32, 32)),
    ],
)
def test_scale_gives_the_size(node: Scale, size: tuple[int, int]) -> None:
    (out,) = run_node(node, testing.video(1))
    assert (out.format.width, out.format.height) == size


def test_scale_within_bars_and_over_the_edge() -> None:
    white = VideoFrame(np.full((48, 64, 3), 255, np.uint8), pts=0)
    (barred,) = run_node(Scale(64, 64, fit="contain", colour="#0000ff"), [white])
    assert np.array_equal(barred.array[:8], np.broadcast_to(np.array([0, 0, 255], np.uint8), (8, 64, 3)))
    assert np.array_equal(barred.array[8:56], np.full((48, 64, 3), 255, np.uint8))
    halves = np.zeros((48, 64, 3), np.uint8)
    halves[:, 32:] = 255
    (covered,) = run_node(Scale(48, 48, fit="cover", method="nearest"), [VideoFrame(halves, pts=0)])
    assert np.array_equal(covered.array, halves[:, 8:56])


def test_scale_by_whole_numbers_without_mixing() -> None:
    (out,) = run_node(Scale(128, 96, method="nearest"), [grid(64, 48)])
    assert np.array_equal(out.array, grid(64, 48).array.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("pixels", ["gray", "bgr24", "rgba", "yuv420p", "nv12", "rgb48le"])
def test_convert_is_the_conversion_of_pyav(pixels: str) -> None:
    frame = testing.video(1, width=64, height=48)[0]
    (out,) = run_node(Convert(pixels), [frame])
    assert out.format.pixels == pixels
    assert np.array_equal(out.array, VideoFrame.from_av(frame.to_av(), pixels).array)


def test_crop_and_pad() -> None:
    frame = grid(64, 48)
    (middle,) = run_node(Crop(20, 10), [frame])
    assert np.array_equal(middle.array, frame.array[19:29, 22:42])
    (corner,) = run_node(Crop(20, 10, 3, 5), [frame])
    assert np.array_equal(corner.array, frame.array[5:15, 3:23])
    (ground,) = run_node(Pad(70, 50, x=6, y=1, colour="white"), [frame])
    assert np.array_equal(ground.array[1:49, 6:], frame.array)
    assert (ground.array[0] == 255).all()
    assert (ground.array[:, :6] == 255).all()


def test_a_crop_that_is_not_within_the_picture() -> None:
    with pytest.raises(FormatError, match=r"crop: 100x10 at -18,19 is not within pictures of 64x48"):
        run_node(Crop(100, 10), [grid(64, 48)])
    with pytest.raises(FormatError, match="Padded dimensions cannot be smaller"):
        run_node(Pad(10, 10), [grid(64, 48)])


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 4, -1])
def test_quarter_turns_are_exact(quarters: int) -> None:
    frame = grid(64, 48)
    (out,) = run_node(Rotate(90 * quarters), [frame])
    assert np.array_equal(out.array, np.rot90(frame.array, -quarters))


def test_other_turns_lose_nothing() -> None:
    (out,) = run_node(Rotate(45, colour="white"), [grid(64, 48)])
    assert (out.format.width, out.format.height) == (80, 80)
    assert (out.array[0, 0] == 255).all()


@pytest.mark.parametrize("rate", [10, 25, 60, "30000/1001"])
def test_frame_rate_shows_each_moment_the_picture_of_its_time(rate: int | str) -> None:
    frames = testing.video(50)  # two seconds at 25
    out = run_node(FrameRate(rate), frames)
    wanted = Fraction(rate)
    assert {frame.format.rate for frame in out} == {wanted}
    assert [frame.time_s for frame in out] == pytest.approx([number / float(wanted) for number in range(len(out))])
    assert len(out) == pytest.approx(49 / 25 * float(wanted) + 1, abs=1)  # how long the last one lasts nobody says
    for frame in out:
        nearest = min(frames, key=lambda each: abs((each.time_s or 0) - frame.time_s))
        shown = int(frame.array[0, 0, 2])
        assert abs(shown - int(nearest.array[0, 0, 2])) <= 1


def test_sizes_that_are_none() -> None:
    for make in (lambda: Scale(), lambda: Scale(0), lambda: Scale(3, fit="cover"), lambda: Crop(-1, 3)):
        with pytest.raises(ValueError, match=r"whole number from 1 up|a width, a height, or both|a width and a height"):
            make()


# --- sound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1, 441, 1023, 7], [4800], [1024]])
def test_resample_in_odd_pieces_is_the_one_shot(sizes: list[int]) -> None:
    sound = tones(1.0, 440, 1000) + np.random.default_rng(5).normal(0, 0.01, (2, 48_000)).astype(np.float32)
    out = whole(run_node(Resample(16_000, layout="mono"), pieces(sound, sizes)))
    assert np.array_equal(out, resampled(sound, "stereo", 48_000, to=16_000, into="mono"))
    assert out.shape == (1, 16_000)


def test_resample_makes_no_clicks() -> None:
    """All that is in the sound is the tone: a click at the end of a piece would be everywhere in the spectrum."""
    sound = tones(1.0, 1000)
    out = whole(run_node(Resample(16_000), pieces(sound, [997])))[0, 1000:15_000]
    power = np.abs(np.fft.rfft(out * np.blackman(len(out)))) ** 2
    tone = 1000 * len(out) // 16_000
    assert power[tone - 6 : tone + 7].sum() / power.sum() > 1 - 1e-7


def test_channels() -> None:
    one, two = tones(0.1, 440), tones(0.1, 440, 880)
    (both,) = run_node(Resample(layout="stereo"), pieces(one, [4800]))
    assert np.array_equal(both.array[0], both.array[1])
    (mixed,) = run_node(Resample(layout="mono"), pieces(two, [4800]))
    assert mixed.array.shape == (1, 4800)
    assert np.allclose(mixed.array[0], two.sum(axis=0) * np.sqrt(0.5), atol=1e-6)


def test_another_rate_in_mid_stream() -> None:
    """The tail of the one comes out before the other, at its time."""
    first, second = tones(0.5, 440), tones(0.5, 440, rate=44_100)
    frames = pieces(first, [1024])
    frames += [
        frame.stamped(pts=(frame.pts or 0) + 22_050) for frame in pieces(second, [1024], 44_100, Fraction(1, 44_100))
    ]
    out = run_node(Resample(16_000), frames)
    at = next(number for number, frame in enumerate(out) if frame.time_s >= 0.5)
    assert np.array_equal(whole(out[:at]), resampled(first, "mono", 48_000, to=16_000, into="mono"))
    assert np.array_equal(whole(out[at:]), resampled(second, "mono", 44_100, to=16_000, into="mono"))
    assert out[at].time_s == 0.5


def test_normalize_brings_sound_to_the_loudness() -> None:
    """A soft tone of ten seconds, whose loudness is known by its level."""
    soft = 0.05 * tones(10.0, 1000, 1000)
    out = run_node(Normalize(-16), pieces(soft, [4800]))
    assert {(frame.rate, frame.format.samples, frame.layout) for frame in out} == {(48_000, "fltp", "stereo")}
    sound = whole(out)
    assert sound.shape[1] == pytest.approx(480_000, abs=480)
    # By ITU-R BS.1770-4 a sine of 997 Hz in one channel at full scale has -3.01 LUFS; two channels have 3.01 more.
    peak = np.sqrt(2) * np.sqrt(np.mean(np.square(sound[0, 96_000:])))
    assert 20 * np.log10(peak) == pytest.approx(-16, abs=0.5)
    assert np.abs(sound).max() <= 10 ** (-1.5 / 20) + 0.01
    with pytest.raises(ValueError, match="loudness is -70 to -5, not 3"):
        Normalize(3)
