"""Shows the results: a table of ratios with their targets, and benchmarks/RESULTS.md."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rich.table import Table

from benchmarks.results import Results, Target

HEADINGS = ("what", "system", "callers", "a second", "p50 ms", "p99 ms", "driver's CPU")


def ratios_table(results: Results, targets: tuple[Target, ...]) -> Table:
    """The ratios for the terminal."""
    table = Table(title="Ratios, each the median of the rounds")
    for heading in ("what", "beside", "ratio", "target", "met"):
        table.add_column(heading, justify="right" if heading == "ratio" else "left")
    for claim, beside, ratio, wanted, met in ratio_rows(results, targets):
        table.add_row(
            claim, beside, ratio, wanted, f"[red]{met}" if met == "NO" else f"[green]{met}"
        )
    return table


def figures_table(results: Results) -> Table:
    """All figures for the terminal."""
    table = Table(title="Figures, each the median of the rounds")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number > 1 else "left")
    for row in figure_rows(results):
        table.add_row(*row)
    return table


def markdown(
    results: Results,
    targets: tuple[Target, ...],
    machine: Mapping[str, str],
    how: str,
) -> str:
    """The whole of RESULTS.md."""
    ratios = [("what", "beside", "ratio", "target", "met"), *ratio_rows(results, targets)]
    lines = [
        "# Results",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}. {how}",
        "README.md beside this file says what each line means, and what it does not.",
        "",
        "## Ratios",
        "",
        *markdown_table(ratios),
        "",
        "## Figures",
        "",
        *markdown_table([HEADINGS, *figure_rows(results)]),
        "",
        "The driver's CPU is its share of the time of all cores.",
        "",
        "## Machine",
        "",
        *markdown_table([("what", "which"), *machine.items()]),
    ]
    return "\n".join(lines) + "\n"


def ratio_rows(
    results: Results, targets: tuple[Target, ...]
) -> list[tuple[str, str, str, str, str]]:
    """Each target with its ratio, and whether it is met."""
    rows = []
    for target in targets:
        ratio = target.ratio(results)
        met = "yes" if target.is_met(ratio) else "NO"
        met = "-" if target.bound is None else met
        callers = "1 caller" if target.of.callers == 1 else f"{target.of.callers} callers"
        claim = f"{target.claim}, {callers}"
        rows.append((claim, target.beside.system, f"{ratio:.2f}", target.wanted, met))
    return rows


def figure_rows(results: Results) -> Sequence[tuple[str, ...]]:
    """Each key's medians, in the order of measuring."""
    rows = []
    for key in results.samples:
        sample = results.median_of(key)
        latencies = (f"{sample.p50_ms:.2f}", f"{sample.p99_ms:.2f}")
        rate, share = f"{sample.rate:,.0f}", f"{sample.driver_share:.0%}"
        rows.append((key.work, key.system, str(key.callers), rate, *latencies, share))
    return rows


def markdown_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table whose first row is its heading."""
    heading, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [heading, "|" + " --- |" * len(rows[0]), *body]
