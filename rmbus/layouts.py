"""How pixels and samples lie in memory: FFmpeg's names, with the numpy shape and type that each has here."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from rmbus.errors import FormatError, MalformedFrame
from rmbus.formats import Audio, Video
from rmbus.protocol.lane import Buffer

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

Array = NDArray[np.generic]


@attrs.frozen
class Pixels:
    """One pixel format.

    Attributes:
        name: FFmpeg's name.
        dtype: the type of one element.
        channels: the length of the last axis; 0 where the array has two axes.
        planar: the chroma planes follow below the luma plane, at half the size: `[height * 3 / 2, width]`.
    """

    name: str
    dtype: np.dtype[np.generic]
    channels: int = 0
    planar: bool = False

    def shape(self, width: int, height: int) -> tuple[int, ...]:
        """Return the shape of the array of a picture."""
        if self.planar:
            if width % 2 or height % 2:
                raise FormatError(
                    f"{self.name} needs an even width and height, and the picture is {width}x{height}: use rgb24"
                )
            return (height * 3 // 2, width)
        return (height, width, self.channels) if self.channels else (height, width)

    def size(self, array: Array) -> tuple[int, int]:
        """Return width and height of the picture that the array holds.

        Raises:
            FormatError: its type or shape is not this format's.
        """
        if array.dtype != self.dtype:
            raise FormatError(
                f"pixels {self.name} are {self.dtype.name}, the array is {array.dtype.name}: "
                f"clip it and use array.astype(np.{self.dtype.name})"
            )
        fits = array.ndim == 3 and array.shape[2] == self.channels if self.channels else array.ndim == 2
        if self.planar:
            fits = fits and array.shape[0] % 3 == 0 and array.shape[1] % 2 == 0
        if not fits or not array.size:
            raise FormatError(
                f"an array of shape {list(array.shape)} is no picture of pixels {self.name}, which is "
                f"{self._axes()}: give pixels= the name of the format that it has"
            )
        rows = array.shape[0] * 2 // 3 if self.planar else array.shape[0]
        return array.shape[1], rows

    def _axes(self) -> str:
        if self.planar:
            return "[height * 3 / 2, width], both even"
        return f"[height, width, {self.channels}]" if self.channels else "[height, width]"


_BYTE: np.dtype[np.generic] = np.dtype(np.uint8)
_WORD: np.dtype[np.generic] = np.dtype("<u2")

PIXELS = {
    each.name: each
    for each in (
        Pixels("rgb24", _BYTE, 3),
        Pixels("bgr24", _BYTE, 3),
        Pixels("rgba", _BYTE, 4),
        Pixels("bgra", _BYTE, 4),
        Pixels("gray", _BYTE),
        Pixels("gray16le", _WORD),
        Pixels("rgb48le", _WORD, 3),
        Pixels("yuv420p", _BYTE, planar=True),
        Pixels("nv12", _BYTE, planar=True),
    )
}

_PACKED: dict[str, np.dtype[np.generic]] = {
    "u8": np.dtype("u1"),
    "s16": np.dtype("<i2"),
    "s32": np.dtype("<i4"),
    "flt": np.dtype("<f4"),
    "dbl": np.dtype("<f8"),
}
SAMPLES = _PACKED | {name + "p": dtype for name, dtype in _PACKED.items()}

_CHANNELS = {"mono": 1, "stereo": 2, "2.1": 3, "4.0": 4, "5.0": 5, "5.1": 6, "7.1": 8}
_LAYOUTS = {count: name for name, count in _CHANNELS.items()}


def pixels_named(name: str) -> Pixels:
    """Return a pixel format by its name.

    Raises:
        FormatError: it is none that frames carry.
    """
    found = PIXELS.get(name)
    if found is None:
        raise FormatError(f"frames do not carry pixels {name!r}, only {', '.join(PIXELS)}")
    return found


PictureLayout = tuple["np.dtype[np.generic]", tuple[int, ...], int]
SoundLayout = tuple["np.dtype[np.generic]", int, bool]


@functools.lru_cache(maxsize=256)
def picture_shape(name: str, width: int, height: int) -> PictureLayout:
    """Return element type, shape and number of bytes of a picture."""
    pixels = pixels_named(name)
    shape = pixels.shape(width, height)
    return pixels.dtype, shape, int(np.prod(shape)) * pixels.dtype.itemsize


def pixels_of(array: Array) -> str:
    """Return the pixel format that an array has unless told otherwise: rgb24, rgba, gray or their 16 bit forms."""
    key = (array.dtype.name, array.ndim, array.shape[2] if array.ndim == 3 else 0)
    found = {
        ("uint8", 3, 3): "rgb24",
        ("uint8", 3, 4): "rgba",
        ("uint8", 2, 0): "gray",
        ("uint16", 3, 3): "rgb48le",
        ("uint16", 2, 0): "gray16le",
    }.get(key)
    if found is None:
        raise FormatError(
            f"an array of shape {list(array.shape)} and type {array.dtype.name} is no picture: "
            "give uint8[height, width, 3], or pixels= the name of the format that it has"
        )
    return found


def sample_type(name: str) -> np.dtype[np.generic]:
    """Return the numpy type of one sample.

    Raises:
        FormatError: it is none that frames carry.
    """
    found = SAMPLES.get(name)
    if found is None:
        raise FormatError(f"frames do not carry samples {name!r}, only {', '.join(SAMPLES)}")
    return found


def samples_of(array: Array) -> str:
    """Return the sample format that an array `[channels, samples]` has unless told otherwise: a planar one."""
    for name, dtype in SAMPLES.items():
        if name.endswith("p") and dtype == array.dtype:
            return name
    raise FormatError(f"samples are uint8, int16, int32, float32 or float64, not {array.dtype.name}")


def layout_of(channels: int) -> str:
    """Return the usual layout of that many channels."""
    return _LAYOUTS.get(channels) or f"{channels} channels"


@functools.lru_cache(maxsize=64)
def channel_count(layout: str) -> int:
    """Return how many channels a layout has.

    Raises:
        FormatError: FFmpeg knows no such layout.
    """
    if layout in _CHANNELS:
        return _CHANNELS[layout]
    import av

    try:
        return av.AudioLayout(layout).nb_channels
    except ValueError as error:
        raise FormatError(f"there is no channel layout {layout!r}: stereo, mono, 5.1 … or '3 channels'") from error


def locked(array: Array) -> Array:
    """Return a read-only view of the array, of a contiguous copy where it is not contiguous."""
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view


def contiguous(array: Array) -> Array:
    """Return the array, or a contiguous copy where it is not contiguous."""
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def is_writable(array: Array) -> bool:
    """Whether somebody can write to what lies below the array, though this view of it is read-only."""
    below: object = array
    while isinstance(below, np.ndarray):
        if below.flags.writeable:
            return True
        below = _base(below)
    return isinstance(below, bytearray) or (isinstance(below, memoryview) and isinstance(below.obj, bytearray))


def _base(array: Any) -> object:
    base: object = array.base  # of any type that has a buffer
    return base


def heard(array: Array, form: Audio) -> Array:
    """Return a read-only view of samples that lies in memory as the format says.

    Raises:
        FormatError: the array is no sound of that format.
    """
    name, layout = str(form.samples), str(form.layout)
    if array.dtype != sample_type(name):
        raise FormatError(f"samples {name} are {sample_type(name).name}, the array is {array.dtype.name}")
    channels = channel_count(layout)
    if array.ndim != 2 or len(array) != channels:
        raise FormatError(
            f"an array of shape {list(array.shape)} is no sound of layout {layout!r}, which is [{channels}, samples]"
        )
    return locked(array) if name.endswith("p") else locked(array.T).T


# --- from the wire --------------------------------------------------------------------------------------------------


def picture_in(payload: Buffer, form: Video) -> Array:
    """Return the pixels that a payload holds, as a read-only view.

    Raises:
        MalformedFrame: they are no picture of that format.
    """
    return picture_over(payload, picture_layout(form))


def picture_layout(form: Video) -> PictureLayout:
    """Return element type, shape and number of bytes of the pictures of a format that came with them.

    Raises:
        MalformedFrame: it leaves something open, or is none that frames carry.
    """
    if not form.pixels or not form.width or not form.height:
        raise MalformedFrame(f"a picture came with the format {form}, which leaves its size open")
    try:
        return picture_shape(form.pixels, form.width, form.height)
    except FormatError as error:
        raise MalformedFrame(str(error)) from error


def picture_over(payload: Buffer, layout: PictureLayout) -> Array:
    """Return the pixels of a picture whose layout is known.

    Raises:
        MalformedFrame: they are too many or too few.
    """
    dtype, shape, size = layout
    if len(payload) != size:
        raise MalformedFrame(f"a picture of {dtype.name}{list(shape)} has {size} bytes, and {len(payload)} came")
    array = np.ndarray(shape, dtype, payload)
    if type(payload) is not bytes:  # else it is read-only as it is
        array.setflags(write=False)
    return array


def sound_in(payload: Buffer, form: Audio) -> Array:
    """Return the samples that a payload holds, as a read-only view `[channels, samples]`.

    Raises:
        MalformedFrame: they are no sound of that format.
    """
    return sound_over(payload, sound_layout(form))


def sound_layout(form: Audio) -> SoundLayout:
    """Return element type, number of channels, and whether each lies in one piece, of sound that came with a format.

    Raises:
        MalformedFrame: it leaves something open, or is none that frames carry.
    """
    if not form.samples or not form.rate or not form.layout:
        raise MalformedFrame(f"sound came with the format {form}, which leaves something open")
    try:
        return sample_type(form.samples), channel_count(form.layout), form.samples.endswith("p")
    except FormatError as error:
        raise MalformedFrame(str(error)) from error


def sound_over(payload: Buffer, layout: SoundLayout) -> Array:
    """Return the samples of sound whose layout is known.

    Raises:
        MalformedFrame: they are no whole number.
    """
    dtype, channels, planar = layout
    samples, rest = divmod(len(payload), channels * dtype.itemsize)
    if rest:
        raise MalformedFrame(f"{len(payload)} bytes are no whole number of samples of {channels} times {dtype.name}")
    array = np.ndarray((channels, samples) if planar else (samples, channels), dtype, payload)
    if type(payload) is not bytes:  # else it is read-only as it is
        array.setflags(write=False)
    return array if planar else array.T


# --- between PyAV's frames and arrays -------------------------------------------------------------------------------

_BT709, _BT601 = 1, 5  # swscale's numbers
_TAGS = {_BT709: (1,), _BT601: (6, 5)}  # the tags of a picture that mean the matrix, the usual one first
_UNTOLD = 2
_LIMITED = 1
_HIGH_DEFINITION = 720


def matrix_for(height: int) -> int:
    """Return the colour matrix of a picture that does not name one: BT.709 from 720 lines on, as players guess too."""
    return _BT709 if height >= _HIGH_DEFINITION else _BT601


def tag_of(matrix: int) -> int:
    """Return the tag by which a picture names its colour matrix."""
    return _TAGS[matrix][0]


def convert(frame: av.VideoFrame, pixels: str, reformatter: VideoReformatter | None = None) -> av.VideoFrame:
    """Return the picture in other pixels, the same frame where it has them already.

    Luma and chroma on the bus have the matrix that goes with the height, and the limited range.

    Args:
        frame: the picture.
        pixels: FFmpeg's name of a pixel format that frames carry.
        reformatter: one that is kept for a whole film saves its set-up for each picture.
    """
    matrix = matrix_for(frame.height)
    planar = pixels_named(pixels).planar
    usual = frame.colorspace in (_UNTOLD, *_TAGS[matrix])
    if frame.format.name == pixels and (usual or not planar):
        return frame
    if reformatter is None:
        from av.video.reformatter import VideoReformatter

        reformatter = VideoReformatter()
    return reformatter.reformat(
        frame,
        format=pixels,
        src_colorspace=matrix if frame.colorspace == _UNTOLD else None,
        dst_colorspace=matrix if planar else None,
        dst_color_range=_LIMITED if planar else None,
        threads=1,
    )


def picture_from(frame: av.VideoFrame) -> Array:
    """Return the pixels of PyAV's frame as an array: a view where its rows lie without gaps, else a copy."""
    pixels = pixels_named(frame.format.name)
    if pixels.planar:
        _ = pixels.shape(frame.width, frame.height)
        return frame.to_ndarray()
    plane: Any = frame.planes[0]  # a buffer, which PyAV's annotations do not say
    dtype, shape, size = picture_shape(pixels.name, frame.width, frame.height)
    if plane.line_size * frame.height == size:
        whole: Array = np.frombuffer(plane, dtype, count=size // dtype.itemsize)
        return whole.reshape(shape)
    row = plane.line_size // dtype.itemsize
    rows: Array = np.frombuffer(plane, dtype, count=row * frame.height).reshape(frame.height, row)
    packed: Array = np.ascontiguousarray(rows[:, : size // dtype.itemsize // frame.height])
    return packed.reshape(shape)


def picture_to(array: Array, pixels: str) -> av.VideoFrame:
    """Return PyAV's frame over the array's own memory, or over a copy where PyAV's layout differs."""
    import av

    held: Any = array  # PyAV's annotation lists each element type
    planar = pixels_named(pixels).planar
    if planar and array.shape[0] % 6:
        frame = av.VideoFrame.from_ndarray(held, pixels)
    else:
        frame = av.VideoFrame.from_numpy_buffer(held, pixels)
    if planar:
        frame.colorspace = tag_of(matrix_for(frame.height))
        frame.color_range = _LIMITED
    return frame
