"""python -m tests.live.chaos --seed 1 --kills 300

Exit code 0 when all that must hold held; else 1, and the folder with logs and histories is kept.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.live.chaos.report import show
from tests.live.chaos.run import Outcome, Run


def main() -> int:
    """Runs, and shows what came of it."""
    options = parsed()
    console = Console()
    kept = options.folder is not None
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"Seed {options.seed}, {options.kills} kills, in {folder}", highlight=False)
    outcome = asyncio.run(watched(options.seed, options.kills, folder, console))
    show(console, outcome, options.seed)
    if outcome.is_good and not kept:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if outcome.is_good else 1


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.live.chaos", description="The crash test of the LIVE path."
    )
    parser.add_argument("--seed", type=int, default=1, help="the same seed kills alike (1)")
    parser.add_argument("--kills", type=int, default=300, help="how many (300)")
    parser.add_argument("--folder", type=Path, help="an empty one for logs and data; it is kept")
    return parser.parse_args()


async def watched(seed: int, kills: int, folder: Path, console: Console) -> Outcome:
    """Runs, and shows the progress; on a terminal, that is."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("", total=kills)

        def show_step(step: int, what: str) -> None:
            bar.update(task, completed=step, description=what)

        return await Run(seed, kills, folder, show_step).run()


if __name__ == "__main__":
    sys.exit(main())
