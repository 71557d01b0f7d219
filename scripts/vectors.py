"""Write and read the values of the wire's test vectors; see `scripts/vectors` and the README beside the vectors.

In JSON, bytes are `{"bytes": "HEX"}`, with `"tail": "HEX", "times": N` where one byte follows many times; a map whose
keys are numbers is `{"map": [[key, value], …]}`; an array is `{"array": "TYPE", "items": […]}`, nested as its axes are.
Everything else is itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from rmbus import formats, framing, media
from rmbus.protocol import frames, lane, limits, messages
from rmbus.protocol.codec import pack, unpack
from rmbus.protocol.manifest import FileEntry, Manifest, Need, decode_manifest

FOLDER: Final = Path(__file__).parents[1] / "protocol" / "vectors"

Value = Any  # what JSON holds


def to_json(value: object) -> Value:
    """Return a value of the wire as JSON holds it."""
    if isinstance(value, bytes | bytearray):
        data = bytes(value)
        head = data.rstrip(data[-1:])
        times = len(data) - len(head)
        return {"bytes": head.hex(), "tail": data[-1:].hex(), "times": times} if times > 64 else {"bytes": data.hex()}
    if isinstance(value, np.ndarray):
        array = cast("NDArray[Any]", value)
        return {"array": array.dtype.str, "items": array.tolist()}
    if isinstance(value, dict):
        held: dict[Any, Any] = {**value}
        if all(isinstance(key, str) for key in held):
            return {key: to_json(item) for key, item in held.items()}
        return {"map": [[key, to_json(item)] for key, item in held.items()]}
    return [to_json(item) for item in cast("list[Any]", value)] if isinstance(value, list | tuple) else value


def from_json(value: Value) -> Any:
    """Return the value of the wire that JSON holds."""
    if isinstance(value, list):
        items: list[Any] = [*value]
        return [from_json(item) for item in items]
    if not isinstance(value, dict):
        return value
    value = cast("dict[str, Any]", value)
    if value.keys() in ({"bytes"}, {"bytes", "tail", "times"}):
        return bytes.fromhex(value["bytes"]) + bytes.fromhex(value.get("tail", "")) * value.get("times", 0)
    if value.keys() == {"array", "items"}:
        return np.array(value["items"], value["array"])
    if value.keys() == {"map"}:
        return {key: from_json(item) for key, item in value["map"]}
    return {key: from_json(item) for key, item in value.items()}


# --- one writer and one reader for each file; what is written is a list of parts ------------------------------------


def write_frames(value: Value) -> list[bytes]:
    """Return the body of a message of frames."""
    return [frames.join_frames([_write_frame(frame) for frame in value])]


def _write_frame(value: Value) -> bytes:
    fields: dict[str, Any] = {**value, "kind": frames.Kind[value["kind"].upper()]}
    ticket, payload = fields.pop("ticket"), fields.pop("payload")
    if isinstance(payload, list):
        numbers: list[int] = [*payload]
        payload = frames.Place(*numbers)
    frame = frames.encode_frame(frames.Header(**fields), payload)
    return frames.with_ticket(frame, ticket)


def read_frames(parts: list[bytes]) -> Value:
    """Return the frames that the body of a message holds."""
    return [
        {"ticket": ticket} | header._asdict() | {"kind": frames.Kind(header.kind).name.lower(), "payload": payload}
        for ticket, header, payload in frames.decode_frames(parts[0])
    ]


def write_identities(value: Value) -> list[bytes]:
    """Return the body of a message of the smallest frames, with these identities."""
    smallest = frames.encode_frame(frames.Header(frames.Kind.VIDEO, 0))
    told = [
        smallest if identity is None else frames.with_identity(smallest, frames.encode_identity(tuple(identity)))
        for identity in value
    ]
    return [frames.join_frames(told)]


def read_identities(parts: list[bytes]) -> Value:
    """Return the identity of each frame that the body of a message holds, None where there is none."""
    return [None if identity is None else list(identity) for identity in frames.identities(parts[0])]


def write_lane(value: Value) -> list[bytes]:
    """Return the parts of a message of a lane."""
    message = lane.Message(lane.Type[value["type"].upper()], value["number"], value["body"], value["payload"])
    return [bytes(part) for part in lane.encode(message)]


def read_lane(parts: list[bytes]) -> Value:
    """Return the message of a lane that the parts hold."""
    message = lane.decode([memoryview(part) for part in parts])
    return message._asdict() | {
        "type": lane.Type(message.type).name.lower(),
        "body": bytes(message.body),
        "payload": bytes(message.payload),
    }


def write_control(value: Value) -> list[bytes]:
    """Return the bytes of a control message."""
    tag, number, fields = value["tag"], value["id"], value["fields"]
    return [messages.encode(messages.decode(pack([tag, number, fields]))[1], number)]


def read_control(parts: list[bytes]) -> Value:
    """Return the control message that the bytes hold, with every field, also those that were left out."""
    number, message = messages.decode(parts[0])
    return {"tag": message.tag, "id": number, "fields": attrs.asdict(message)}


def write_payload(value: Value) -> list[bytes]:
    """Return the `extra` of a frame, as msgpack, and its payload."""
    format, content = formats.from_wire(value["format"]), value["content"]
    frame: media.Frame
    if isinstance(format, formats.Video):
        frame = media.VideoFrame(content, format.pixels)
    elif isinstance(format, formats.Audio):
        frame = media.AudioFrame(content, format.rate or 0, layout=format.layout, samples=format.samples)
    elif isinstance(format, formats.Encoded):
        frame = media.Packet(format=format, **content)
    else:
        frame = media.Data(content)
    _, extra, payload = framing.encode(frame)
    return [pack(extra), bytes(payload)]


def read_payload(parts: list[bytes], format: Value) -> Value:
    """Return what a frame of that format holds."""
    known = formats.from_wire(format)
    kind = {"video": frames.Kind.VIDEO, "audio": frames.Kind.AUDIO, "encoded": frames.Kind.PACKET}
    extra = unpack(parts[0], limit=limits.MAX_HEADER_BYTES, what="the extra of a frame")
    header = frames.Header(kind.get(formats.kind(known), frames.Kind.DATA), 0, extra=extra)
    frame = framing.decode(header, parts[1], known)
    if isinstance(frame, media.VideoFrame | media.AudioFrame):
        return frame.array
    if isinstance(frame, media.Packet):
        return {"data": frame.data, "key": frame.key, "dts": frame.dts, "duration": frame.duration}
    return frame.value


def write_key(value: Value) -> list[bytes]:
    """Return the name of an edge between gateways."""
    return [pack([value["session"], value["edge"]])]


def read_key(parts: list[bytes]) -> Value:
    """Return the edge that is named between gateways."""
    session, edge = unpack(parts[0], limit=256, what="the name of an edge")
    return {"session": session, "edge": edge}


def write_manifest(value: Value) -> list[bytes]:
    """Return the canonical form of a manifest, and its address."""
    files = tuple(FileEntry(*row) for row in value["files"])
    needs = tuple(Need(*row) for row in value["needs"])
    manifest = Manifest(**value | {"files": files, "needs": needs, "requirements": tuple(value["requirements"])})
    return [manifest.encode(), bytes.fromhex(manifest.address)]


def read_manifest(parts: list[bytes]) -> Value:
    """Return the manifest whose canonical form the bytes are."""
    value = attrs.asdict(decode_manifest(parts[0]))
    rows = {name: [list(row.values()) for row in value[name]] for name in ("files", "needs")}
    return value | rows | {"requirements": list(value["requirements"])}


Write = Callable[[Value], list[bytes]]
Read = Callable[[list[bytes], Value], Value]

BOTH_WAYS: Final[dict[str, tuple[Write, Read]]] = {
    "frames": (write_frames, lambda parts, _: read_frames(parts)),
    "lane": (write_lane, lambda parts, _: read_lane(parts)),
    "control": (write_control, lambda parts, _: read_control(parts)),
    "payloads": (write_payload, lambda parts, was: was | {"content": read_payload(parts, was["format"])}),
    "identities": (write_identities, lambda parts, _: read_identities(parts)),
    "gateway": (write_key, lambda parts, _: read_key(parts)),
    "manifest": (write_manifest, lambda parts, _: read_manifest(parts)),
}
"""Files whose cases are read and written. In the others a case is only read, or only refused."""


def cases(name: str) -> Iterator[dict[str, Value]]:
    """Return the cases of a file."""
    yield from json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["cases"]


def parts_of(case: dict[str, Value]) -> list[bytes]:
    """Return the bytes of a case."""
    parts: list[bytes] = from_json(case["parts"])
    return parts


def main() -> int:
    """Compare, or write; return the exit status."""
    different = 0
    for name, (write, read) in BOTH_WAYS.items():
        path = FOLDER / f"{name}.json"
        held = json.loads(path.read_text(encoding="utf-8"))
        for case in held["cases"]:
            parts = write(from_json(case["value"]))
            now = {"value": to_json(read(parts, from_json(case["value"]))), "parts": to_json(parts)}
            if any(case.get(key) != item for key, item in now.items()):
                different += 1
                print(
                    f"{name}.json: {case['name']}\n  there: {case.get('parts')!s:.400}\n  now:   {now['parts']!s:.400}"
                )
                case.update(now)
        if "--write" in sys.argv[1:]:
            path.write_text(dump(held), encoding="utf-8")
    missing = set(messages.tags()) - {case["value"]["tag"] for case in cases("control")}
    for tag in sorted(missing):
        print(f"control.json: no case for {tag!r}")
    print(f"{different} of the vectors differ" if different else "the vectors hold")
    return 1 if missing or (different and "--write" not in sys.argv[1:]) else 0


def dump(held: dict[str, Value]) -> str:
    """Return a file's text: one line for a value, one for its bytes."""
    lines = [f"  {json.dumps(key)}: {json.dumps(held[key], ensure_ascii=False)}," for key in held if key != "cases"]
    told: list[str] = []
    for case in held["cases"]:
        fields = [f"      {json.dumps(key)}: {json.dumps(item, ensure_ascii=False)}" for key, item in case.items()]
        told.append("    {\n" + ",\n".join(fields) + "\n    }")
    return "{\n" + "\n".join(lines) + '\n  "cases": [\n' + ",\n".join(told) + "\n  ]\n}\n"


if __name__ == "__main__":
    sys.exit(main())
