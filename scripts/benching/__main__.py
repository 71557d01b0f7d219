"""The command `scripts/bench`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benching import tables
from benching.campaign import Campaign, Results
from benching.catalogue import RIVALS, System, chosen_systems
from benching.environments import ROOT, CannotInstall, python_for_plots
from benching.judging import Verdict, judge_all
from benching.lanes import has_fast_lane
from benching.machine import facts
from benching.rows import rows_of, write_json
from benching.workloads import FULL, GROUPS, QUICK, SIZES, Case, chosen, full_cases, quick_cases

QUICK_BUDGET_S = 35.0
"""What the runs of `--quick` take; imports, tables, plots and a last run that takes long are in the rest of 50 s."""

QUICK_ROUNDS = 2

PAGES = ROOT / "docs" / "benchmarks"


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit status: 2 for wrong usage, else 0, whatever the figures are."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        systems = chosen_systems(options.against, options.systems)
        cases = chosen(quick_cases() if options.quick else full_cases(), options.only, options.sizes)
    except ValueError as error:
        parser.error(str(error))
    if not cases:
        parser.error("no case has that size in that group")
    console = Console(width=None if sys.stdout.isatty() else 140)
    told = Console(stderr=True, highlight=False)
    if not has_fast_lane():
        told.print("this rmbus has one lane: there are no variants -ipc", style="yellow")
        systems = tuple(system for system in systems if not system.variant.endswith("-ipc"))
    results = Campaign(
        systems,
        cases,
        effort=QUICK if options.quick else FULL,
        rounds=options.rounds or (QUICK_ROUNDS if options.quick else 7),
        budget_s=QUICK_BUDGET_S if options.quick else None,
        takes_part=_quickly if options.quick else System.can,
        tell=lambda line: told.print(line, style="dim", markup=False, soft_wrap=True),
    ).run()
    verdicts = judge_all(results) if options.bars else ()
    tables.show(console, results)
    if options.bars:
        tables.show_verdicts(console, verdicts)
    if options.json is not None:
        write_json(options.json, rows_of(results))
    if options.write is not None:
        _write(options.write, results, verdicts, facts(systems, list(arguments)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures rmbus, and others beside it. See docs/benchmarks/README.md.",
        epilog=f"Groups: {', '.join(GROUPS)}. Sizes: {', '.join(SIZES)}. Others: {', '.join(RIVALS)}, all.",
    )
    parser.add_argument("--quick", action="store_true", help="a small set, in less than 50 s")
    parser.add_argument("--against", type=_words, default=(), metavar="OTHERS", help="measure these too, or all")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="rounds, by default 7; 2 with --quick")
    parser.add_argument("--only", type=_words, default=(), metavar="GROUPS", help="only these groups")
    parser.add_argument("--sizes", type=_words, default=(), metavar="SIZES", help="only these sizes")
    parser.add_argument("--systems", type=_words, default=(), metavar="NAMES", help="only these systems")
    parser.add_argument("--bars", action="store_true", help="say which of the project's bars hold")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=PAGES,
        metavar="DIR",
        help="write a page and plots, by default to docs/benchmarks",
    )
    return parser


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _quickly(system: System, case: Case) -> bool:
    """Of the ways to lend, which cost as much time as the others, run those alone that can be seen to differ."""
    if "loan" in system.variant and (case.size != SIZES["6.2MB"] or case.group not in ("latency", "throughput")):
        return False
    return system.can(case)


def _write(folder: Path, results: Results, verdicts: Sequence[Verdict], told: Mapping[str, str]) -> None:
    rows = folder / "results.json"
    write_json(rows, rows_of(results))
    plots: list[str] = []
    try:
        command = [str(python_for_plots()), "-m", "benching.plots", str(rows), str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        plots = done.stdout.split()
    except (CannotInstall, subprocess.CalledProcessError) as error:
        print(f"bench: no plots: {error}", file=sys.stderr)
    is_ours = folder.resolve().is_relative_to(ROOT)
    rules = os.path.relpath(PAGES / "README.md", folder) if is_ours else "README.md"
    page = tables.markdown(results, verdicts, told, plots, rules)
    (folder / "results.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
