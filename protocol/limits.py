"""Every limit of the wire, in one place. A message over a limit is refused, never cut."""

from __future__ import annotations

from typing import Final

MAX_HEADER_BYTES: Final = 64 * 1024 - 1
"""A frame without its payload."""

MAX_PAYLOAD_BYTES: Final = 1 << 30
"""One frame's payload."""

MAX_CONTROL_BYTES: Final = 1 << 20
"""A control message between client and host, without its blob."""

MAX_BLOB_BYTES: Final = 64 * 1024 * 1024
"""The blob that rides with a control message: a chunk of a package, a pickled state."""

MAX_DATAGRAM_BYTES: Final = 160 * 1024
"""One message on an umbilical (the kernel's default socket buffer takes about 208 KiB)."""

MAX_DEPTH: Final = 32
"""Nesting of containers in a header or a control message."""

MAX_ITEMS: Final = 10_000
"""Elements of one container in a header or a control message: a decoder makes room for what an array announces."""

MAX_ID: Final = (1 << 63) - 1
"""The id of a control message."""

MAX_NUMBER: Final = (1 << 31) - 1
"""The number of a node or an edge in its session, and the n of a delivery."""

FIRST_TOPIC_EDGE: Final = 1 << 30
"""Edges from a topic to its readers are numbered from here on: a node may have them beside those of its session."""

MAX_NAME_BYTES: Final = 255
"""The name of a node or a port, in UTF-8."""

MAX_GPUS: Final = 64
"""GPUs that one node may ask for."""

MAX_CPUS: Final = 4096
"""Cores that one node may ask for."""

MAX_NEEDED: Final = 64
"""Files, devices, addresses or labels that one node may ask for."""

MAX_NEEDED_BYTES: Final = 1024
"""One of them, in UTF-8."""

MIN_TOKEN_BYTES: Final = 16
"""An edge's token; it is random, so that nobody guesses it."""

MAX_TOKEN_BYTES: Final = 64

INLINE_BYTES: Final = 64 * 1024
"""A payload up to this size rides with its header; a larger one lies in shared memory, or travels apart."""

MAX_LANE_BYTES: Final = 160 * 1024
"""The first part of a lane message, or a datagram of the fast lane."""

MAX_FRAMES: Final = 256
"""Frames in one message of a lane."""

TICKETS: Final = 448
"""Payloads in shared memory that a consumer may hold at once, on one edge."""

MAX_SEGMENT_BYTES: Final = 1 << 32
"""One segment of shared memory, or a slot of one."""

MAX_SLOTS: Final = 1024
"""Slots of one segment."""

MAX_EPOCH: Final = (1 << 23) - 1
"""The epochs of one edge: an epoch and a place make up the number by which a ticket is given back."""

DEFAULT_CREDIT: Final = 2
"""Frames that a consumer lets a producer send ahead of what it has processed."""

MAX_CREDIT: Final = 1024
"""The greatest window: a grant is never further than this beyond what the consumer has processed."""

MAX_COUNTS: Final = 64
"""What an end of an edge may count."""

MAX_TOPIC_BYTES: Final = 255

CHUNK_BYTES: Final = 1 << 20
"""A package is uploaded in chunks of this size."""
