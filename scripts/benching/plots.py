"""The figures as plots, SVG and PNG. Run by an environment of its own: `python -m benching.plots ROWS FOLDER`."""

# Where this runs matplotlib is installed; where it is checked it is not.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

Rows = list[dict[str, Any]]

LABELS = {
    64: "64 B",
    1920: "1.9 KB",
    65_536: "64 KB",
    921_600: "0.92 MB",
    6_220_800: "6.2 MB",
    1 << 20: "1 MiB",
    24_883_200: "24.9 MB",
}
mpl.rcParams["svg.hashsalt"] = "rmbus"  # the same figures give the same file


def main() -> None:
    """Draw everything that there are rows for; print the names of the files."""
    rows: Rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(sys.argv[2])
    for rate_hz in (30, 1000):
        chosen = [row for row in rows if row["workload"] == "latency" and row["rate_hz"] == rate_hz]
        lines(chosen, "p50_us", f"one hop at {rate_hz} Hz, median", "µs", folder / f"latency-{rate_hz}hz")
    lines(
        [row for row in rows if row["workload"] == "throughput"],
        "per_s",
        "throughput",
        "messages/s",
        folder / "throughput",
    )
    for workload in ("fanout4", "fanout16", "chain"):
        chosen = [row for row in rows if row["workload"] == workload and row["size_bytes"] == 6_220_800]
        columns(chosen, "p50_us", f"{workload}, 6.2 MB at 30 Hz, median", "µs", folder / workload)

    for workload in ("ship-new", "ship-cached", "ship-edited", "ship-new-burst", "ship-cached-burst"):
        chosen = [row for row in rows if row["workload"] == workload]
        columns(chosen, "p50_us", f"{workload}, to first result, median", "µs", folder / workload)
    lines([row for row in rows if row["workload"] == "call"], "p50_us", "a call, median", "µs", folder / "call")
    chosen = [row for row in rows if row["workload"] == "stream"]
    columns(chosen, "per_s", "a stream of 64 B", "items/s", folder / "stream")


def lines(rows: Rows, key: str, title: str, unit: str, path: Path) -> None:
    """Draw a figure over the sizes, a line for each system."""
    rows = [row for row in rows if row[key] is not None]
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    axes.set_prop_cycle(color=plt.get_cmap("tab20").colors)
    for system in dict.fromkeys(row["system"] for row in rows):
        own = sorted((row["size_bytes"], row[key]) for row in rows if row["system"] == system)
        axes.plot(*zip(*own, strict=True), marker="o", markersize=4, label=system, **style(system))
    axes.set(xscale="log", yscale="log", title=title, ylabel=unit)
    sizes = sorted({row["size_bytes"] for row in rows})
    axes.set_xticks(sizes, [LABELS.get(size, str(size)) for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    save(figure, path)


def columns(rows: Rows, key: str, title: str, unit: str, path: Path) -> None:
    """Draw a figure of each system as a bar."""
    rows = sorted((row for row in rows if row[key] is not None), key=lambda row: -row[key])
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(9, 1 + 0.35 * len(rows)), layout="constrained")
    colors = ["tab:red" if row["system"].startswith("rmbus") else "tab:gray" for row in rows]
    axes.barh([row["system"] for row in rows], [row[key] for row in rows], color=colors)
    axes.set(xscale="log", title=title, xlabel=unit)
    axes.grid(alpha=0.3, axis="x")
    save(figure, path)


def style(system: str) -> dict[str, Any]:
    """Return how a system's line is drawn: those of rmbus stand out."""
    if not system.startswith("rmbus"):
        return {"linewidth": 1, "alpha": 0.8}
    return {"linewidth": 2.5, "linestyle": "--" if "loan" in system else "-", "zorder": 3}


def save(figure: Any, path: Path) -> None:
    """Save as SVG and PNG, and print the names."""
    for suffix, more in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 110})):
        figure.savefig(path.with_suffix(suffix), **more)
        print(path.with_suffix(suffix).name)
    plt.close(figure)


if __name__ == "__main__":
    main()
