"""What a port carries: plain values in which None means "any".

The format of `Data` is a plain Python type; `typing.Any` is the format of a port that takes everything.
"""

from __future__ import annotations

import builtins
import sys
import types
import typing
from fractions import Fraction
from typing import Any, Final, TypeAlias, cast

import attrs

from rmbus.errors import FormatError

Rate: TypeAlias = int | float | str | Fraction
"""A frame rate as people write it: 30, 29.97, "30000/1001", Fraction(30000, 1001)."""


_NTSC: Final = Fraction(1000, 1001)


def _rate(value: Rate | None) -> Fraction | None:
    if value is None:
        return None
    rate = Fraction(str(value)) if isinstance(value, float) else Fraction(value)
    if isinstance(value, float) and abs(round(value) * _NTSC - rate) < Fraction(1, 1000):
        rate = round(value) * _NTSC  # 29.97 is how people write 30000/1001
    if rate <= 0:
        raise ValueError(f"a rate is above 0, not {value}")
    return rate


def _positive(_instance: object, attribute: attrs.Attribute[int | None], value: object) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{attribute.name} is a whole number from 1 up or None, not {value!r}")


def _name(_instance: object, attribute: attrs.Attribute[str | None], value: object) -> None:
    if value is not None and not _is_name(value):
        raise ValueError(f"{attribute.name} is a name or None, not {value!r}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


@attrs.frozen
class Video:
    """Decoded pictures.

    Attributes:
        pixels: a pixel format by FFmpeg's name, such as `rgb24`.
        width, height: in pixels.
        rate: frames per second.
    """

    pixels: str | None = attrs.field(default=None, validator=_name)
    width: int | None = attrs.field(default=None, kw_only=True, validator=_positive)
    height: int | None = attrs.field(default=None, kw_only=True, validator=_positive)
    rate: Fraction | None = attrs.field(default=None, kw_only=True, converter=_rate)

    def __str__(self) -> str:
        return _describe(self)


@attrs.frozen
class Audio:
    """Decoded sound.

    Attributes:
        samples: a sample format by FFmpeg's name, such as `s16` or `fltp`.
        rate: samples per second in each channel.
        layout: the channels by FFmpeg's name, such as `mono` or `stereo`.
    """

    samples: str | None = attrs.field(default=None, validator=_name)
    rate: int | None = attrs.field(default=None, kw_only=True, validator=_positive)
    layout: str | None = attrs.field(default=None, kw_only=True, validator=_name)

    def __str__(self) -> str:
        return _describe(self)


@attrs.frozen(init=False)
class Encoded:
    """Packets of any of the codecs, by FFmpeg's names; of any codec at all where none is given.

    Args:
        codecs: such as `"h264", "hevc"`.
        extradata: what a decoder must have been given before the first packet.
        width, height: of pictures, in pixels.
        rate: pictures, or samples in each channel, in a second.
        layout: of sound: the channels by FFmpeg's name.
    """

    codecs: tuple[str, ...]
    extradata: bytes | None
    width: int | None = attrs.field(validator=_positive)
    height: int | None = attrs.field(validator=_positive)
    rate: Fraction | None
    layout: str | None = attrs.field(validator=_name)

    def __init__(
        self,
        *codecs: str,
        extradata: bytes | None = None,
        width: int | None = None,
        height: int | None = None,
        rate: Rate | None = None,
        layout: str | None = None,
    ) -> None:
        for codec in codecs:
            if not _is_name(codec):
                raise ValueError(f"a codec is a name such as 'h264', not {codec!r}")
        values = {"extradata": extradata, "width": width, "height": height, "rate": _rate(rate), "layout": layout}
        for name, value in {"codecs": codecs, **values}.items():
            object.__setattr__(self, name, value)
        attrs.validate(self)

    def __str__(self) -> str:
        return f"Encoded({', '.join(self.codecs)})"


Format: TypeAlias = Video | Audio | Encoded | object
"""Any of the three, a plain type, or `typing.Any`."""

_OF_CLASSES: Final[dict[str, Format]] = {
    "rmbus.formats.Video": Video(),
    "rmbus.media.VideoFrame": Video(),
    "rmbus.formats.Audio": Audio(),
    "rmbus.media.AudioFrame": Audio(),
    "rmbus.formats.Encoded": Encoded(),
    "rmbus.media.Packet": Encoded(),
    "rmbus.media.Data": Any,
}

# fmt: off
_ALONE: Final = frozenset({
    "mjpeg", "png", "bmp", "gif", "webp", "prores", "dnxhd", "ffv1", "huffyuv", "rawvideo", "opus", "aac", "mp3",
    "mp2", "ac3", "eac3", "flac", "alac", "vorbis", "speex", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s32le",
    "pcm_f32le", "pcm_u8", "pcm_alaw", "pcm_mulaw", "g722",
})
# fmt: on


def as_format(value: object) -> Format:
    """Return the value as a format; a class such as `Video` or `VideoFrame` means `Video()`.

    Raises:
        FormatError: it is neither a format nor a type.
    """
    if isinstance(value, type) and typing.get_origin(value) is None:
        meant = _OF_CLASSES.get(f"{value.__module__}.{value.__qualname__}")
        return value if meant is None else meant
    if isinstance(value, Video | Audio | Encoded) or value is Any or typing.get_origin(value) is not None:
        return value
    if value is None:
        return type(None)
    raise FormatError(
        f"{value!r} is no format: a port carries Video(...), Audio(...), Encoded(...), a plain type such as "
        "list[float] for data, or anything (leave it out)"
    )


def is_inter_coded(format: Format) -> bool:
    """Tell whether packets of the format may need others to be decoded, so that none can be left out alone.

    Those of video may, but for a few codecs; those of sound, which has a layout, do not.
    """
    if not isinstance(format, Encoded) or format.layout is not None:
        return False
    return not (format.codecs and _ALONE.issuperset(format.codecs))


def kind(format: Format) -> str:
    """Return `video`, `audio`, `encoded`, `data` or `any`."""
    if format is Any:
        return "any"
    if isinstance(format, Video):
        return "video"
    if isinstance(format, Audio):
        return "audio"
    return "encoded" if isinstance(format, Encoded) else "data"


def show(format: Format) -> str:
    """Return the format as a person writes it; for a plain type that is its name."""
    if format is Any:
        return "Any"
    if isinstance(format, type) and typing.get_origin(format) is None:
        return format.__name__
    return str(format).replace("typing.", "")


def fits(offered: Format, wanted: Format) -> str | None:
    """Tell in words why a port that offers the one cannot feed a port that wants the other.

    Returns:
        The misfit, naming the field that differs, or None: they fit, or may, for a wildcard leaves it open.
    """
    if offered is Any or wanted is Any:
        return None
    if kind(offered) != kind(wanted):
        return f"the kind differs: {kind(offered)} is offered, {kind(wanted)} is wanted"
    if isinstance(offered, Encoded) and isinstance(wanted, Encoded):
        if not offered.codecs or not wanted.codecs or set(offered.codecs) & set(wanted.codecs):
            return None
        return f"the codec differs: {' or '.join(offered.codecs)} is offered, {' or '.join(wanted.codecs)} is wanted"
    if isinstance(offered, Video | Audio):
        for field in attrs.fields(type(offered)):
            have, want = getattr(offered, field.name), getattr(wanted, field.name)
            if have is not None and want is not None and have != want:
                return f"{field.name} differs: {have} is offered, {want} is wanted"
        return None
    if _types_fit(offered, wanted):
        return None
    return f"the type differs: {show(offered)} is offered, {show(wanted)} is wanted"


def to_wire(format: Format) -> dict[str, Any]:
    """Return the format as plain values, for a `format` control frame."""
    name = kind(format)
    if isinstance(format, Video | Audio | Encoded):
        fields: dict[str, Any] = attrs.asdict(format, recurse=False)
        if isinstance(fields["rate"], Fraction):
            fields["rate"] = [fields["rate"].numerator, fields["rate"].denominator]
        return {"kind": name, **{key: value for key, value in fields.items() if value is not None}}
    return {"kind": name, "type": _type_name(format)} if name == "data" else {"kind": name}


def from_wire(value: Any) -> Format:
    """Return the format that `to_wire` wrote. Nothing is imported: a type that is not known here becomes `Any`.

    Raises:
        FormatError: the values are those of no format.
    """
    if not isinstance(value, dict):
        raise FormatError(f"a format is a map, not {type(value).__name__}")
    fields = cast("dict[str, Any]", value)
    name = fields.get("kind")
    if name == "any":
        return Any
    if name == "data":
        return _known_type(fields.get("type"))
    cls = _BY_KIND.get(str(name))
    if cls is None:
        raise FormatError(f"no format is written as {fields!r}: it is of the kind {name!r}")
    known: dict[str, Any] = {
        field.name: fields[field.name] for field in attrs.fields(cls) if fields.get(field.name) is not None
    }
    codecs = known.pop("codecs", ())
    try:
        if isinstance(known.get("rate"), list | tuple):
            known["rate"] = Fraction(*known["rate"])
        format: Format = cls(*codecs, **known)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise FormatError(f"no format is written as {fields!r}: {error}") from error
    return format


_BY_KIND: Final[dict[str, type[Any]]] = {"video": Video, "audio": Audio, "encoded": Encoded}


def _describe(format: Video | Audio) -> str:
    given = [(field.name, getattr(format, field.name)) for field in attrs.fields(type(format))]
    first, *rest = given
    words = [str(first[1])] if first[1] is not None else []
    words += [f"{name}={value}" for name, value in rest if value is not None]
    return f"{type(format).__name__}({', '.join(words)})"


def _types_fit(offered: object, wanted: object) -> bool:
    """Tell whether a value of the one type may be one of the other; in doubt it may."""
    if offered is Any or wanted is Any or offered == wanted:
        return True
    for one, other in ((offered, wanted), (wanted, offered)):
        if isinstance(one, types.UnionType) or typing.get_origin(one) is typing.Union:
            return any(_types_fit(member, other) for member in typing.get_args(one))
    have, want = typing.get_origin(offered) or offered, typing.get_origin(wanted) or wanted
    if not isinstance(have, type) or not isinstance(want, type):
        return True
    if have is int and want is float:
        return True
    if not (issubclass(have, want) or issubclass(want, have)):
        return False
    pairs = list(zip(typing.get_args(offered), typing.get_args(wanted), strict=False))
    return have is not want or all(_types_fit(one, other) for one, other in pairs)


def _type_name(format: object) -> str:
    if isinstance(format, type) and typing.get_origin(format) is None:
        return f"{format.__module__}.{format.__qualname__}"
    return show(format)


def _known_type(name: object) -> Format:
    module_name, _, attribute = str(name).rpartition(".")
    module = builtins if module_name in ("", "builtins") else sys.modules.get(module_name)
    found: object = getattr(module, attribute, None)
    return found if isinstance(found, type) else Any
