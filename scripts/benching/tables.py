"""The figures as tables: on the terminal, and as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from rich.console import Console
from rich.table import Table

from benching.bars import Measure
from benching.campaign import Results
from benching.catalogue import OURS
from benching.judging import Verdict, compared
from benching.rows import cpu_s_per_gb, row_of
from benching.workloads import CALLING, Case

HEADS = ("system", "p50 µs", "p99 µs", "per s", "CPU s", "CPU s/GB", "memory MB", "lost")

Cells = Sequence[str]


def case_cells(results: Results, case: Case) -> list[Cells]:
    """Return the lines of a case's table."""
    lines: list[Cells] = []
    for system in results.planned[case]:
        row = row_of(results, system, case)
        if row.per_s is None:
            continue
        memory_mb = None if row.rss_bytes is None else row.rss_bytes / 1e6
        per_gb = None if case.group == "ship" else cpu_s_per_gb(results, system, case)
        figures = (row.p50_us, row.p99_us, row.per_s, row.cpu_s, per_gb, memory_mb)
        levels = {outcome.level for outcome in results.of(system, case).values()} - {""}
        name = f"{system} ({', '.join(sorted(levels))})" if levels else system
        lines.append((name, *map(_figure, figures), str(row.lost)))
    return lines


def missing(results: Results, case: Case) -> list[str]:
    """Return, for each system that has no figures in a case or not those of every round, why."""
    lines: list[str] = []
    for system in results.planned[case]:
        reason, rounds = results.failures.get((system, case)), len(results.of(system, case))
        if reason is not None or not rounds:
            lines.append(f"{system}, {rounds} of {results.rounds} rounds: {reason or 'not run'}")
    return lines


def ratio_cells(results: Results) -> list[Cells]:
    """Return the lines of the table of rmbus against each of the others, where objects are shipped and called."""
    lines: list[Cells] = []
    for case in results.planned:
        if case.group not in CALLING:
            continue
        ours = [name for name in results.planned[case] if name.startswith(OURS)]
        measure: Measure = "p50" if case.has_latency else "per_s"
        for name, other in product(ours, (each for each in results.planned[case] if each not in ours)):
            ratio = compared(results, case, measure, name, other)
            if ratio is not None:
                lines.append((str(case), name, other, measure, str(ratio), str(ratio.rounds)))
    return lines


RATIO_HEADS = ("case", "system", "over", "of", "median [95 %]", "rounds")


def verdict_cells(verdicts: Sequence[Verdict]) -> list[Cells]:
    """Return the lines of the table of the bars."""
    lines: list[Cells] = []
    for verdict in verdicts:
        bar = verdict.bar
        wanted = f"{'≥' if bar.above else '≤'} {bar.limit:.3g}"
        found = "" if verdict.ratio is None else str(verdict.ratio)
        note = "; ".join(each for each in (verdict.rival and f"against {verdict.rival}", verdict.note) if each)
        lines.append((str(bar.ours.case), bar.name, bar.measure, wanted, found, verdict.word, note))
    return lines


VERDICT_HEADS = ("case", "bar", "of", "wanted", "median [95 %]", "", "")


def show(console: Console, results: Results) -> None:
    """Print a table for each case."""
    for case in results.planned:
        table = Table(*HEADS, title=str(case), title_justify="left")
        for cells in case_cells(results, case):
            table.add_row(*cells)
        if table.row_count:
            console.print(table)
        for line in missing(results, case):
            console.print(f"{case}: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    table = Table(*RATIO_HEADS, title="ratios", title_justify="left")
    for cells in ratio_cells(results):
        table.add_row(*cells)
    if table.row_count:
        console.print(table)


def show_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Print the table of the bars that were measured, and how many there are of each kind."""
    table = Table(*VERDICT_HEADS, title="bars", title_justify="left")
    for cells, verdict in zip(verdict_cells(verdicts), verdicts, strict=True):
        if verdict.word != "not measured":
            table.add_row(*cells, style="green" if verdict.word == "holds" else "red")
    console.print(table)
    counts = {word: sum(verdict.word == word for verdict in verdicts) for word in ("holds", "fails", "not measured")}
    console.print(", ".join(f"{count} {word}" for word, count in counts.items()))


def markdown(
    results: Results,
    verdicts: Sequence[Verdict],
    facts: Mapping[str, str],
    plots: Sequence[str],
    rules: str = "README.md",
) -> str:
    """Return everything as a page of markdown; `rules` is where the page finds how it is measured."""
    parts = ["# Results", "", f"What is measured and how: [README.md]({rules}).", ""]
    parts += [f"- {name}: `{value}`" if name == "command" else f"- {name}: {value}" for name, value in facts.items()]
    parts += [f"- rounds: {results.rounds}", ""]
    parts += [f"![{plot.removesuffix('.svg').replace('-', ' ')}]({plot})" for plot in plots if plot.endswith(".svg")]
    for case in results.planned:
        parts += ["", f"## {case}", ""]
        parts += _table(HEADS, case_cells(results, case))
        if told := missing(results, case):
            parts += ["", *(f"- {line}" for line in told)]
    if ratios := ratio_cells(results):
        parts += ["", "## Ratios", "", *_table(RATIO_HEADS, ratios)]
    if verdicts:
        parts += ["", "## Bars", "", *_table(VERDICT_HEADS, verdict_cells(verdicts))]
    return "\n".join(parts) + "\n"


def _table(heads: Cells, lines: Sequence[Cells]) -> list[str]:
    return [_line(heads), _line(["---"] * len(heads)), *(_line(cells) for cells in lines)]


def _line(cells: Cells) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
