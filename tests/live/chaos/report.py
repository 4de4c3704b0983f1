"""What a run came to, for the terminal."""

from rich.console import Console
from rich.table import Table

from tests.live.chaos.run import Outcome

MOST_LINES = 10


def show(console: Console, outcome: Outcome, seed: int) -> None:
    """The figures, a line a check, and what is wrong."""
    figures = Table(title="What happened", show_header=False)
    for what, count in outcome.figures.items():
        figures.add_row(what, str(count))
    console.print(figures)

    checks = Table(title=f"What must hold, seed {seed}, {outcome.took_s:.0f} s")
    for heading in ("what", "looked at", "wrong"):
        checks.add_column(heading, justify="left" if heading == "what" else "right")
    for finding in outcome.findings:
        wrong = f"[red]{len(finding.wrong)}" if finding.wrong else "[green]0"
        checks.add_row(finding.what, str(finding.looked_at), wrong)
    console.print(checks)

    for finding in outcome.findings:
        for line in finding.wrong[:MOST_LINES]:
            console.print(f"{finding.what}: {line}", style="red", markup=False, highlight=False)
    for file in outcome.histories[:2]:
        console.print(f"\n{file}", style="bold", highlight=False)
        console.print(file.read_text(), markup=False, highlight=False)
    if outcome.histories:
        console.print(f"\nAll histories: {outcome.histories[0].parent}", highlight=False)
