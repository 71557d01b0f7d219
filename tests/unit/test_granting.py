"""Needs as values, the account of a host, what it grants, the owner's options, and the GPUs that it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rmbus import Needs
from rmbus.cli.main import app
from rmbus.errors import HostError
from rmbus.host import gpus
from rmbus.host.caches import Caches
from rmbus.host.gpus import Gpu
from rmbus.host.granting import Granting, Offer, ledger_of
from rmbus.host.ledger import Ledger
from rmbus.needs import on_the_wire
from rmbus.protocol import messages
from rmbus.transport.reactor import Reactor

GPUS = tuple(Gpu(f"GPU-{number}", "Fake", number) for number in range(2))


def asked(**given: Any) -> messages.Needs:
    return on_the_wire(Needs(**given))


def start(**given: Any) -> messages.Start:
    return messages.Start(session="0123456789", node=0, name="model", entry="a:Model", needs=asked(**given))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpus": 1.5}, "gpus is a whole number"),
        ({"gpus": True}, "gpus is a whole number"),
        ({"gpus": None}, "gpus is a whole number"),
        ({"gpus": 65}, "gpus is a whole number"),
        ({"cpus": -0.5}, "cpus is a number, 0 or more"),
        ({"cpus": float("nan")}, "cpus is a number"),
        ({"cpus": float("inf")}, "cpus is a number"),
        ({"memory_mb": 0}, "memory_mb is a whole number, 1 or more"),
        ({"network": "example.org"}, "network 'example.org': write"),
        ({"files": "films"}, "files 'films': write an absolute path"),
        ({"files": ["/a", "/b\0"]}, "files '/b"),
        ({"files": ["/" + "a" * 1024]}, "1024 bytes at most"),
        ({"files": ["/a"] * 65}, "names 65 things, and may name 64"),
        ({"devices": "video0"}, "devices 'video0': write an absolute path"),
        ({"labels": "two words"}, "labels 'two words': write a word"),
        *(
            ({"cache": name}, "cache .*write a name")
            for name in ("", ".", "..", "a/b", "../a", ".a", "a\n", "a" * 65, 1)
        ),
    ],
)
def test_needs_that_cannot_be_meant_are_refused_where_they_are_built(given: dict[str, Any], words: str) -> None:
    """What no host could grant, or understand, is told in the script, with what may be written."""
    with pytest.raises(ValueError, match=rf"Needs\.{words}|{words}"):
        Needs(**given)


def test_needs_go_on_the_wire_as_they_are() -> None:
    """All that may be said is said; a spare will do for labels alone."""
    needs = Needs(gpus=1, cpus=0.5, memory_mb=9, network="*", files=Path("/a"), devices="/d", cache="c.1", labels="l")
    assert on_the_wire(needs) == messages.Needs(1, 0.5, 9, ["*"], ["/a"], ["/d"], "c.1", ["l"])
    assert [asked(labels="l").fits_spare, asked().fits_spare, on_the_wire(None).fits_spare] == [True] * 3
    for each in ({"gpus": 1}, {"cpus": 1}, {"memory_mb": 1}, {"network": "*"}, {"files": "/a"}, {"cache": "c"}):
        assert not asked(**each).fits_spare


def test_the_account() -> None:
    """A GPU is one share's alone, CPUs are those with the least on them, and what is given back is there once more."""
    ledger = Ledger(GPUS, (0, 1, 2, 3), 1000, ["a"])
    first = ledger.take("first", asked(gpus=1, cpus=1.5, memory_mb=600))
    second = ledger.take("second", asked(gpus=1, cpus=2))
    assert (first.gpus, second.gpus) == (GPUS[:1], GPUS[1:])
    assert (first.cpus, second.cpus) == ((0, 1), (2, 3))
    assert ledger.told()["free"] == {"gpus": 0, "cpus": 0.5, "memory_mb": 400}
    assert ledger.missing(asked(gpus=2, cpus=1, memory_mb=500, labels=["a", "b"])) == [
        "2 GPUs (0 of 2 are free: first has GPU-0, second has GPU-1)",
        "1 CPU (0.5 of 4 are free: first has 1.5, second has 2)",
        "500 MB of memory (400 of 1000 are free: first has 600)",
        "the label 'b' (it has 'a')",
    ]
    ledger.give_back(first)
    ledger.give_back(first)
    assert ledger.missing(asked(gpus=1, cpus=2, memory_mb=1000)) == []
    assert ledger.take("third", asked(gpus=1)).gpus == GPUS[:1]


def test_tenths_of_cpus_add_up() -> None:
    """Thirty tenths are three CPUs, whatever sums of fractions are off by, and one more is too much."""
    ledger = Ledger((), (0, 1, 2), 0)
    for _ in range(30):
        assert ledger.missing(asked(cpus=0.1)) == []
        ledger.take("it", asked(cpus=0.1))
    assert ledger.missing(asked(cpus=0.1)) != []


@pytest.fixture
def reactor() -> Any:
    made = Reactor()
    yield made
    made.close()


def granting(reactor: Reactor, folder: Path, offer: Offer, *, cache_mb: int = 100) -> Granting:
    ledger = Ledger(GPUS, (0, 1), 1000, offer.labels)
    return Granting(offer, ledger, "garage", Caches(reactor, folder / "caches", cache_mb), is_own=False)


def test_all_that_is_missing_is_told_at_once(reactor: Reactor, tmp_path: Path) -> None:
    """Each thing with what there is of it and the option that gives it; and nothing is taken."""
    given = granting(reactor, tmp_path, Offer(files=("/srv",)), cache_mb=0)
    with pytest.raises(HostError) as caught:
        given.grant(
            start(
                gpus=3,
                cpus=9,
                memory_mb=2000,
                network="*",
                files=["/etc/passwd"],
                devices="/dev/kvm",
                cache="c",
                labels="l",
            )
        )
    told = str(caught.value)
    assert told.startswith("the host garage cannot give model what it needs: 3 GPUs (2 of 2 are free); ")
    for words in (
        "9 CPUs (2 of 2",
        "2000 MB of memory (1000 of 1000",
        "the network (its owner allows it by --allow-network)",
        "the file '/etc/passwd' (its owner allows /srv, by --allow-file)",
        "the device '/dev/kvm' (its owner allows none, by --allow-device)",
        "the cache 'c' (its owner keeps none; --cache-mb",
        "the label 'l' (it has none)",
    ):
        assert words in told
    assert given.status()["free"] == {"gpus": 2, "cpus": 2, "memory_mb": 1000}


def test_a_grant_tells_the_process_and_is_given_back(reactor: Reactor, tmp_path: Path) -> None:
    """By variables; one that has no GPU is told so, and what is closed twice is given back once."""
    given = granting(reactor, tmp_path, Offer())
    one, two = given.grant(start(gpus=2, cpus=1, cache="c")), given.grant(start())
    assert one.env["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1"
    assert one.env["OMP_NUM_THREADS"] == "1"
    assert one.env["RMBUS_CACHE"] == str(tmp_path / "caches/c/data")
    assert one.grants.writable == (str(tmp_path / "caches/c/data"),)
    assert one.about == "no spare process has what it needs: gpus, cpus, cache"
    assert (two.env, two.about) == ({"CUDA_VISIBLE_DEVICES": ""}, "")
    one.close()
    one.close()
    assert given.status()["free"] == {"gpus": 2, "cpus": 2, "memory_mb": 1000}


def test_more_than_the_machine_has_cannot_be_offered() -> None:
    """An owner who offers what is not there is told so when the host starts."""
    with pytest.raises(HostError, match=r"100000 CPUs are offered, and this machine has \d+"):
        ledger_of(Offer(cpus=100_000))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus", "-1"], "gpus"),
        (["--cache-mb", "-1"], "cache-mb"),
        (["--cache-mb", "all"], "cache-mb"),
        (["--allow-file", "films"], "absolute path below /"),
        (["--allow-file", "/"], "absolute path below /"),
        (["--allow-file", "/srv/..:rw"], "absolute path below /"),
        (["--allow-device", "video0"], "absolute path below /"),
    ],
)
def test_options_of_an_owner_that_cannot_be_meant(options: list[str], words: str) -> None:
    """They end the command before there is a host."""
    done = CliRunner().invoke(app, ["host", *options])
    assert done.exit_code != 0
    assert words in done.output + str(done.exception)


def test_gpus_are_found(tmp_path: Path) -> None:
    """As the driver tells of them, in the order of the bus; those that an environment hides are not there to give."""
    (tmp_path / "dev").mkdir()
    for number in (0, 1):
        (tmp_path / "dev" / f"nvidia{number}").touch()
        facts = tmp_path / f"proc/driver/nvidia/gpus/0000:0{1 - number}:00.0"
        facts.mkdir(parents=True)
        (facts / "information").write_text(f"Model: \t Fake\nGPU UUID: \t GPU-{number}\nDevice Minor: \t {number}\n")
    assert [gpu.id for gpu in gpus.find(tmp_path, {})] == ["GPU-1", "GPU-0"]
    assert [gpu.id for gpu in gpus.find(tmp_path, {"CUDA_VISIBLE_DEVICES": "1"})] == ["GPU-0"]
    assert [gpu.id for gpu in gpus.find(tmp_path, {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1"})] == ["GPU-0", "GPU-1"]
    assert gpus.find(tmp_path, {"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert gpus.find(tmp_path / "none", {}) == ()
    assert gpus.device_files((), tmp_path) == ()
