"""Why there is no jail, and what helps: from the words of bubblewrap and the facts of a machine."""

from __future__ import annotations

import pytest

from rmbus.errors import ConfinementError
from rmbus.host.levels import Level
from rmbus.host.remedies import Machine, no_bubblewrap, why_no_jail

_NO_MAP = "bwrap: setting up uid map: Permission denied"
_NO_LOOP = "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted"
_APPARMOR = {"kernel.apparmor_restrict_unprivileged_userns": "1"}
_FORBIDDEN = "bwrap: No permissions to create new namespace, likely because the kernel does not allow them. See <x>."


@pytest.mark.parametrize(
    ("said", "sysctls", "container", "expected"),
    [
        (_FORBIDDEN, {"user.max_user_namespaces": "0"}, False, "sysctl user.max_user_namespaces="),
        (_FORBIDDEN, {"kernel.unprivileged_userns_clone": "0"}, False, "sysctl kernel.unprivileged_userns_clone=1"),
        (_NO_MAP, _APPARMOR, False, "AppArmor"),
        (_NO_LOOP, _APPARMOR, False, "AppArmor"),
        (_FORBIDDEN, {"user.max_user_namespaces": "96365"}, True, "--security-opt seccomp"),
        (_FORBIDDEN, {}, False, "seccomp filter or a security module"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", {}, True, "systempaths=unconfined"),
        ("bwrap: Unknown option --disable-userns", {}, False, "bubblewrap 0.8 or later"),
        ("bwrap: execvp /x: No such file or directory", {}, False, "execvp /x"),
        ("", {}, False, "no message"),
    ],
)
def test_reasons_and_remedies(said: str, sysctls: dict[str, str], container: bool, expected: str) -> None:
    """Each failure names its own remedy, and no addresses of other people's pages."""
    text = why_no_jail(said, Machine(sysctls, container), bwrap="bwrap")
    assert expected in text
    assert "See <" not in text


def test_a_missing_program_is_named() -> None:
    """The package to install is told."""
    assert "apt install bubblewrap" in no_bubblewrap("bwrap")


def test_levels_are_ordered_and_parsed_by_name() -> None:
    """A greater level keeps a process further; names are the words of the documentation."""
    assert Level.TRUSTED < Level.CONFINED < Level.JAIL
    assert [Level.parse(level.word) for level in Level] == list(Level)
    with pytest.raises(ConfinementError, match="trusted, confined, jail"):
        Level.parse("sandbox")
