"""`rmbus host`: the daemon of this machine, in the foreground."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from rmbus.cli.failures import Misuse
from rmbus.errors import ConfinementError, ConnectFailed, HostError
from rmbus.host.caches import QUOTA_MB
from rmbus.host.daemon import Host, Settings, on_signals
from rmbus.host.granting import Offer
from rmbus.host.levels import Level
from rmbus.host.parent import announce, watch_parent
from rmbus.host.probing import choose, probe
from rmbus.shipping.places import cache_folder
from rmbus.shipping.store import QUOTA_BYTES
from rmbus.ssh import tell
from rmbus.transport.security import CONNECTION_FILE, Connection, connections

_KEY_LENGTH: Final = 40
_Z85: Final = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")


def host(
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="ADDRESS", help="tcp://HOST:PORT; without it, only this user's own bus."),
    ] = "",
    level: Annotated[
        str,
        typer.Option(
            "--level",
            metavar="jail|confined|trusted",
            help="The least confinement; the host gives the highest that works.",
        ),
    ] = "confined",
    name: Annotated[str, typer.Option("--name", help="What it is called in reports; by default this machine.")] = "",
    spares: Annotated[int, typer.Option("--spares", min=0, help="Processes kept ready for nodes.")] = 2,
    clients: Annotated[
        list[str] | None,
        typer.Option("--client", metavar="KEY", help="A public key (Z85) that may come; needed off loopback."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Where packages are kept; by default in the user's cache.")
    ] = None,
    store_quota: Annotated[
        int,
        typer.Option("--store-quota", metavar="MB", min=1, help="What all packages may take; unused ones go first."),
    ] = QUOTA_BYTES // 1_000_000,
    pythons: Annotated[
        list[str] | None,
        typer.Option("--python", metavar="PATH", help="A further interpreter with rmbus, for code of its version."),
    ] = None,
    prepared: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=PATH", help="An environment that nodes may name; it is used as it is."),
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=0, help="How many GPUs nodes may have; all.")] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", min=0, help="How many CPUs nodes may claim; all.")] = None,
    memory: Annotated[
        int | None, typer.Option("--memory", metavar="MB", min=0, help="What memory nodes may claim; all.")
    ] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", help="A word that nodes may ask for.")] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--allow-file", metavar="PATH[:rw]", help="A file or folder that nodes may read, or write."),
    ] = None,
    devices: Annotated[
        list[str] | None, typer.Option("--allow-device", metavar="PATH", help="A device file that nodes may open.")
    ] = None,
    network: Annotated[bool, typer.Option("--allow-network", help="Nodes may have this machine's network.")] = False,
    cache_mb: Annotated[
        int,
        typer.Option(
            "--cache-mb", metavar="MB", min=0, help="What all caches of nodes may hold; unused ones go first."
        ),
    ] = QUOTA_MB,
    machine: Annotated[Path, typer.Option("--machine", hidden=True)] = Path("/"),
    parent_pid: Annotated[int | None, typer.Option("--parent-pid", hidden=True)] = None,
    pipe: Annotated[int | None, typer.Option("--announce", hidden=True)] = None,
    for_ssh: Annotated[bool, typer.Option("--for-ssh", hidden=True)] = False,
) -> None:
    """Run nodes that others send, each in a process of its own, confined as far as this machine allows."""
    if for_ssh and lend_running():
        return
    keys = tuple(_checked_key(key) for key in clients or ())
    if listen:
        check_listen(listen, keys)
    minimum = _parse_level(level)
    parent = None if parent_pid is None else watch_parent(parent_pid)
    if parent_pid is not None and parent is None:
        return
    found = probe()
    chosen = choose(minimum, found)
    reasons = "; ".join(f"no {each.word}: {why}" for each, why in sorted(found.reasons.items(), reverse=True))
    settings = Settings(
        name or socket.gethostname(),
        chosen,
        reasons=reasons,
        listen=listen,
        clients=keys,
        store=store or default_store(),
        store_bytes=store_quota * 1_000_000,
        spares=spares,
        environments=cache_folder() / "environments",
        pythons=tuple(pythons or ()),
        prepared=parse_prepared(prepared or ()),
        offer=Offer(
            gpus=gpus,
            cpus=cpus,
            memory_mb=memory,
            labels=tuple(labels or ()),
            files=tuple(_checked_path("--allow-file", path) for path in files or ()),
            devices=tuple(_checked_path("--allow-device", path) for path in devices or ()),
            network=network,
            machine=machine,
        ),
        caches=cache_folder() / "caches",
        cache_mb=cache_mb,
        passing=for_ssh,
    )

    def up(connection: Connection) -> None:
        if for_ssh:
            tell(connection)
            return
        why = f"; {reasons}" if chosen < Level.JAIL and reasons else ""
        file = daemon.folder.path / CONNECTION_FILE
        print(
            f"rmbus host {settings.name} listening on {connection.address} (level {chosen.word}{why}), "
            f"connection file {file}",
            file=sys.stdout if pipe is None else sys.stderr,
            flush=True,
        )
        if pipe is not None and not announce(pipe, connection.address):
            daemon.end()

    daemon = Host(settings, on_up=up)
    on_signals(daemon)
    if parent is not None:
        daemon.reactor.add(parent, daemon.end)
    if for_ssh:
        daemon.reactor.add(sys.stdin.fileno(), partial(_heed_end, daemon.end))
    try:
        daemon.serve()
    except ConnectFailed as error:  # here it is this host that could not be, not one that was looked for
        raise HostError(str(error), host=settings.name) from error


def lend_running() -> bool:
    """Tell somebody who has come by ssh of a host that runs, and wait until he leaves; whether there is one."""
    running = next((each for each in connections() if not each.passing), None)
    if running is None:
        return False
    tell(running)
    while os.read(sys.stdin.fileno(), 4096):
        pass
    return True


def _heed_end(end: Callable[[], None]) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        end()


def default_store() -> Path:
    """Return where a host keeps packages: `rmbus/packages` in the user's cache."""
    return cache_folder() / "packages"


def parse_prepared(given: Sequence[str]) -> dict[str, Path]:
    """Return the environments that are named on the command line.

    Raises:
        Misuse: one is not written as NAME=PATH, or a name is there twice.
    """
    found: dict[str, Path] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not equals or not name or not path or name in found:
            raise Misuse(f"--env {each!r}: write NAME=PATH, each name once, such as cuda-torch=/opt/cuda-torch")
        found[name] = Path(path)
    return found


def check_listen(address: str, keys: tuple[str, ...]) -> None:
    """Check an address to listen on.

    Raises:
        Misuse: it is none, or is open to other machines while nobody is known who may come.
    """
    place, colon, port = address.removeprefix("tcp://").rpartition(":")
    is_port = port == "*" or (port.isdecimal() and int(port) < 65536)
    if not address.startswith("tcp://") or not place or not colon or not is_port:
        raise Misuse(f"{address!r} is no address to listen on: write tcp://HOST:PORT, such as tcp://127.0.0.1:7700")
    if not keys and not _is_loopback(place):
        raise Misuse(
            f"{address} is open to other machines, and nobody is known who may come: give --client KEY, the public key "
            f"of each, or listen for this machine alone: tcp://127.0.0.1:{port}"
        )


def _is_loopback(place: str) -> bool:
    if place == "localhost":
        return True
    try:
        return ipaddress.ip_address(place.strip("[]")).is_loopback
    except ValueError:
        return False


def _parse_level(word: str) -> Level:
    try:
        return Level.parse(word)
    except ConfinementError as error:
        raise Misuse(f"--level: {error}") from error


def _checked_path(option: str, path: str) -> str:
    plain = path.removesuffix(":rw")
    if not os.path.isabs(plain) or os.path.normpath(plain) in ("/", "//"):
        raise Misuse(f"{option} {path!r}: write an absolute path below /, such as /srv/films")
    return os.path.normpath(plain) + path[len(plain) :]


def _checked_key(key: str) -> str:
    if len(key) != _KEY_LENGTH or not set(key) <= _Z85:
        raise Misuse(f"--client {key!r} is no public key: that is {_KEY_LENGTH} characters of Z85")
    return key
