"""The command `scripts/film`: what the bus costs, and what its processes gain, in the main job.

A film of 1080p is made from the demo's clip by looping and scaling. It goes through the demo's graph (decode, draw,
encode, with the sound beside) in turns inline, in one process and without a bus, and in processes of their own.

Each node counts what processor time its thread spends in the node's own code. What is not that is the bus: the rest of
those threads, their starting and imports included, and all of the script and of the host with its helpers. The threads
that FFmpeg starts for itself are the nodes' own. (The two runs' processor times must not be compared: with both
processors at work, each step takes longer.)
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import av

from benching.environments import ROOT
from benching.film_nodes import TOLD
from benching.machine import facts
from rmbus.cli.demo import default_film

SIZE: Final = (1920, 1080)
WAYS: Final = ("inline", "local")
NODES: Final = 3
MOST_SHARE: Final = 0.10
LEAST_RATE: Final = 0.9


class Run(NamedTuple):
    """One run.

    Attributes:
        seconds: how long it took. frames: the pictures that were written.
        cpu_s: the processor time of all its processes. bus_s: of that, what was not in the nodes' code. starting_s: of
            that, what was before or beside the nodes: the host, the script, and the nodes' imports.
    """

    seconds: float
    frames: int
    cpu_s: float
    bus_s: float
    starting_s: float


def main(arguments: Sequence[str]) -> int:
    """Measure; return 0, whatever the figures are."""
    parser = argparse.ArgumentParser(prog="scripts/film", description="Measures the main job.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="length of the film")
    parser.add_argument("--write", type=Path, nargs="?", const=ROOT / "docs" / "benchmarks" / "film.md", metavar="FILE")
    options = parser.parse_args(arguments)
    film = ROOT / ".bench" / f"film-{options.seconds:g}s.mp4"
    if not film.is_file():
        make_film(default_film(), film, options.seconds)
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            runs[way].append(play(film, way))
            print(f"round {number + 1}, {way}: {runs[way][-1]}", file=sys.stderr)
    page = "\n".join(table(runs))
    print(page)
    if options.write is not None:
        about = facts((), []) | {"command": " ".join(["scripts/film", *arguments])}
        told = [f"- {name}: {value}" for name, value in about.items()]
        text = ["# The main job", "", (__doc__ or "").split("\n", 2)[2].strip(), "", page, "", *told, ""]
        options.write.write_text("\n".join(text), encoding="utf-8")
    return 0


def make_film(clip: Path, film: Path, seconds: float) -> None:
    """Loop a clip, scaled, until it is as long as wanted."""
    film.parent.mkdir(parents=True, exist_ok=True)
    unfinished = film.with_suffix(".part.mp4")
    with av.open(str(clip)) as source, av.open(str(unfinished), "w") as opened:
        target: Any = opened  # PyAV's types leave much of it open
        pictures = [frame.reformat(*SIZE, format="yuv420p") for frame in source.decode(video=0)]
        source.seek(0)
        sounds = list(source.decode(audio=0))
        rate = Fraction(source.streams.video[0].average_rate or 25)
        video = target.add_stream("libx264", rate=rate, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        audio = target.add_stream("aac", rate=sounds[0].sample_rate, layout=sounds[0].layout.name)
        samples = 0
        for number in range(round(seconds * rate)):
            picture = pictures[number % len(pictures)]
            picture.pts, picture.time_base = number, 1 / rate
            target.mux(video.encode(picture))
            while samples < number / rate * sounds[0].sample_rate:
                sound = sounds[(samples // sounds[0].samples) % len(sounds)]
                sound.pts, sound.time_base = samples, Fraction(1, sound.sample_rate)
                samples += sound.samples
                target.mux(audio.encode(sound))
        target.mux(video.encode(None))
        target.mux(audio.encode(None))
    unfinished.rename(film)


def play(film: Path, way: str) -> Run:
    """Run the graph once, in a process whose descendants are all waited for."""
    with tempfile.TemporaryDirectory(prefix="rmbus-film-") as folder:
        out = Path(folder, "out.mp4")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        command = [sys.executable, "-c", _PROGRAM, str(film), str(out), way]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"the run {way} has failed: {done.stdout}")
        seconds = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        with av.open(str(out)) as written:
            frames = written.streams.video[0].frames
    told = [json.loads(line.partition(TOLD)[2]) for line in done.stdout.splitlines() if TOLD in line]
    if len(told) != NODES:
        raise RuntimeError(f"{len(told)} nodes of {NODES} have told of their time: {done.stdout}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    within_s, inside_s, early_s, processes_s = (
        sum(each[name] for each in told) / 1e9 for name in ("thread", "inside", "before", "process")
    )
    if way == "inline":  # there is one thread for all, and no bus
        return Run(round(seconds, 2), frames, round(cpu_s, 2), 0.0, 0.0)
    starting_s = cpu_s - processes_s + early_s
    bus_s = cpu_s - processes_s + within_s - inside_s
    return Run(round(seconds, 2), frames, round(cpu_s, 2), round(bus_s, 2), round(starting_s, 2))


_PROGRAM: Final = """
import sys
from benching.film_nodes import TimedEdges, TimedReader, TimedWriter
film, out, way = sys.argv[1:]
reader, edges, writer = TimedReader(film), TimedEdges(), TimedWriter(out, video_options={"preset": "ultrafast"})
graph = (reader.video >> edges >> writer.video) | (reader.audio >> writer.audio)
report = graph.run(on=way)
assert not report.dropped, report
"""


def table(runs: dict[str, list[Run]]) -> list[str]:
    """Return the rows, and what they come to."""
    rows = ["| | seconds | pictures a second | processor seconds | of them the bus | of them starting |"]
    rows.append("|---|---|---|---|---|---|")
    for way, name in zip(WAYS, ("inline", "in processes"), strict=True):
        seconds, frames, cpu_s, bus_s, starting_s = (statistics.median(each) for each in zip(*runs[way], strict=True))
        bus = f"{bus_s:.1f} | {starting_s:.1f}" if way == "local" else "|"
        rows.append(f"| {name} | {seconds:.1f} | {frames / seconds:.1f} | {cpu_s:.1f} | {bus} |")
    pairs = list(zip(*(runs[way] for way in WAYS), strict=True))
    shares = sorted(local.bus_s / local.cpu_s for _, local in pairs)
    rates = sorted(inline.seconds / local.seconds for inline, local in pairs)
    share, rate = statistics.median(shares), statistics.median(rates)
    return [
        *rows,
        "",
        f"The bus took {share:.1%} of all processor time ({shares[0]:.1%} to {shares[-1]:.1%} in {len(pairs)} rounds; "
        f"at most {MOST_SHARE:.0%} are wanted: {_verdict(share <= MOST_SHARE)}), and ran at {rate:.2f} of the rate "
        f"inline ({rates[0]:.2f} to {rates[-1]:.2f}; at least {LEAST_RATE} is wanted: {_verdict(rate >= LEAST_RATE)}).",
    ]


def _verdict(holds: bool) -> str:
    return "holds" if holds else "fails"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
