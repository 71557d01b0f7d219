"""The command scripts/bench, on rmbus alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from command import Command

ROOT = Path(__file__).parents[2]

KEYS = {"system", "workload", "size_bytes", "rate_hz", "p50_us", "p99_us", "per_s", "cpu_s", "rss_bytes", "lost"}


def bench(folder: Path, *arguments: object, script: str = "bench") -> subprocess.CompletedProcess[str]:
    with Command(folder) as command:
        return subprocess.run(
            [str(ROOT / "scripts" / script), *map(str, arguments)],
            cwd=folder,
            env=command.env,
            capture_output=True,
            text=True,
            timeout=80,
            check=False,
        )


@pytest.mark.timeout(90)  # two runs of a pipeline, on machines that share their cores
def test_a_quick_run_writes_rows_and_judges_the_bars(tmp_path: Path) -> None:
    """One hop of small pictures at both rates: nothing is lost, and every figure is there."""
    chosen = ("--only", "latency", "--sizes", "64B", "--systems", "rmbus-copy", "--rounds", 1)
    done = bench(tmp_path, "--quick", "--bars", *chosen, "--json", tmp_path / "rows.json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [set(row) for row in rows] == [KEYS, KEYS]
    assert [(row["system"], row["workload"], row["size_bytes"], row["rate_hz"]) for row in rows] == [
        ("rmbus-copy", "latency", 64, 30),
        ("rmbus-copy", "latency", 64, 1000),
    ]
    for row in rows:
        assert row["lost"] == 0
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["cpu_s"] > 0
        assert row["rss_bytes"] > 10_000_000
    assert "latency 64B 30 Hz" in done.stdout
    assert "not measured" in done.stdout


@pytest.mark.timeout(90)
def test_objects_are_shipped_and_called(tmp_path: Path) -> None:
    """Known code and a small call: every result is right, or the run would have failed, and the figures are there."""
    chosen = ("--only", "ship,call,stream", "--systems", "rmbus-object", "--rounds", 1)
    done = bench(tmp_path, "--quick", *chosen, "--json", tmp_path / "rows.json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["workload"] for row in rows] == ["ship-cached", "call"]
    for row in rows:
        assert set(row) == KEYS
        assert row["lost"] == 0
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["per_s"] > 0


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """Wrong usage is told before anything is run."""
    done = bench(tmp_path, "--against", "nobody")
    assert done.returncode == 2
    assert "there is no rival 'nobody'" in done.stderr


@pytest.mark.timeout(90)
def test_the_main_job_is_measured_inline_and_in_processes(tmp_path: Path) -> None:
    """A short film of 1080p: both write every picture, and the page says what the bus took."""
    page = tmp_path / "film.md"
    done = bench(tmp_path, "--rounds", 1, "--seconds", 0.4, "--write", page, script="film")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("frames=10,") == 2
    text = page.read_text()
    assert "| in processes |" in text
    assert "of all processor time" in text
