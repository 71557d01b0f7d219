"""The `rmbus` command as a process, in an environment of its own, and the films that tests give to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from rmbus.testing import video

EXAMPLES = Path(__file__).parents[2] / "examples"
WIDTH, HEIGHT, RATE = 128, 96, 25


class Command:
    """Runs `rmbus` in a folder, with a run folder and a cache that nobody else has.

    A context manager: what still runs at its end is ended, and nothing may be left in the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_folder = Path(tempfile.mkdtemp(prefix="rmbus-test-", dir="/tmp"))  # the path of a socket must be short
        self.env = os.environ | {
            "XDG_RUNTIME_DIR": str(self.run_folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "COLUMNS": "200",
        }
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Start `rmbus ARGUMENTS` in a process group of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "rmbus.cli.main", *map(str, arguments)],
            cwd=self.folder,
            env=self.env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def __call__(self, *arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `rmbus ARGUMENTS` to its end. The account of a report that it prints must close."""
        done = finish(self.start(*arguments), timeout_s)
        if "--json" in arguments and done.stdout.startswith("{"):
            open_edges = [edge for edge in json.loads(done.stdout).get("edges", ()) if edge["in_flight"]]
            assert not open_edges, f"accounts do not close: {open_edges}"
        return done

    def script(self, *arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENTS` to its end."""
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            if process.poll() is None:
                process.terminate()
                finish(process)
        left = [str(path) for path in self.run_folder.rglob("*")]
        shutil.rmtree(self.run_folder)
        assert error is not None or not left, f"files of the run are left: {left}"


def finish(process: subprocess.Popen[str], timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a process, and return what it said."""
    out, err = process.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def make_film(path: Path, pictures: int, *, sound: bool = True) -> Path:
    """Write a film of H.264, with AAC where there is to be sound."""
    with av.open(str(path), "w") as film:
        shown: Any = film.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        shown.width, shown.height, shown.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        heard: Any = film.add_stream("aac", rate=48_000, layout="stereo") if sound else None
        for frame in video(pictures, width=WIDTH, height=HEIGHT, rate=RATE):
            film.mux(shown.encode(frame.to_av()))
        film.mux(shown.encode())
        if sound:
            for start in range(0, pictures * 48_000 // RATE, 960):
                tone = np.sin(np.arange(start, start + 960) / 20).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
                samples.sample_rate, samples.pts, samples.time_base = 48_000, start, Fraction(1, 48_000)
                film.mux(heard.encode(samples))
            film.mux(heard.encode())
    return path
