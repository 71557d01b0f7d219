"""What an ssh:// address says."""

from __future__ import annotations

import pytest

from rmbus.errors import ConnectFailed
from rmbus.ssh import Target


@pytest.mark.parametrize(
    ("address", "destination", "port", "command"),
    [
        ("ssh://box", "box", None, "rmbus"),
        ("ssh://MyBox", "MyBox", None, "rmbus"),  # ssh_config tells cases apart
        ("ssh://ann@box.example.org:2222", "ann@box.example.org", 2222, "rmbus"),
        ("ssh://ann@[::1]:22", "ann@::1", 22, "rmbus"),
        ("ssh://box/opt/my%20venv/bin/rmbus", "box", None, "/opt/my venv/bin/rmbus"),
    ],
)
def test_addresses(address: str, destination: str, port: int | None, command: str) -> None:
    """Everything goes to ssh as it would be written there."""
    assert Target.parse(address) == Target(destination, port, command)


@pytest.mark.parametrize(
    "address",
    [
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://-l@box",
        "ssh://a b;c",
        "ssh://box:0",
        "ssh://box:65536",
        "ssh://box:x",
        "ssh://box/%00x",
        "ssh://box/a%0Ab",
        "ssh://box?x",
        "ssh://a@b@c",
        "ssh://bo%20x",
    ],
)
def test_what_is_none(address: str) -> None:
    """It is refused before anything runs; what could be taken for an option, above all."""
    with pytest.raises(ConnectFailed, match=r"write ssh://\[user@\]host"):
        Target.parse(address)


def test_a_password_is_not_repeated() -> None:
    """It is ssh's to ask for, and stands in no message."""
    with pytest.raises(ConnectFailed, match="Passwords are ssh's own to ask for") as caught:
        Target.parse("ssh://ann:hunter2@box")
    assert "hunter2" not in str(caught.value)
