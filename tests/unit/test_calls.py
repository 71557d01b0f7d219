"""What a caller and a remote object say to each other."""

from __future__ import annotations

from typing import Any

import pytest

from rmbus import values
from rmbus.errors import MalformedFrame
from rmbus.protocol.calls import MAX_WINDOW, Reply, Request


def carried(said: Request | Reply) -> Any:
    """Return what arrives of it."""
    length, payload = values.dump(said.to_wire())
    return values.load(length, bytes(payload))


def test_both_arrive_as_they_were() -> None:
    request = Request(7, "call", "méthode", 1500, 16, b"pickle", ())
    assert Request.of(carried(request)) == request._replace(buffers=[])
    reply = Reply(7, "raised", "ValueError", "message", "trace", b"", ())
    assert Reply.of(carried(reply)) == reply._replace(buffers=[])


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        [1, "call", "name", 0, 0],
        [1, "run", "name", 0, 0, b""],
        [-1, "call", "name", 0, 0, b""],
        [1, "call", "name", -1, 0, b""],
        [1, "call", "name", 0, MAX_WINDOW + 1, b""],
        [1, "call", b"name", 0, 0, b""],
        ["1", "call", "name", 0, 0, b""],
        [1, "call", "name", 0, 0, "pickle"],
    ],
)
def test_no_request(value: Any) -> None:
    with pytest.raises(MalformedFrame):
        Request.of(value)


@pytest.mark.parametrize(
    "value", [None, [1, "value"], [1, "ok", "", "", "", b""], [1, "value", 2, "", "", b""], [1, "value", "", "", "", 3]]
)
def test_no_reply(value: Any) -> None:
    with pytest.raises(MalformedFrame):
        Reply.of(value)
