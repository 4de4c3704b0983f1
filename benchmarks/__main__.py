"""`make bench`: measures the router beside the peer, pgbench and an empty call. See README.md.

python -m benchmarks                     about 10 minutes; writes benchmarks/RESULTS.md
python -m benchmarks --quick             one short round, to see that it works; writes nothing
python -m benchmarks --seconds 8 --rounds 5
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import live, machine, plan, rebalance, report, systems
from benchmarks.drivers import BenchmarkError, missing_drivers
from benchmarks.results import Results
from services.mesh.errors import MeshError

QUIET = 0.1  # of all cores: what others may take without spoiling the figures
HERE = Path(__file__).resolve().parent
TARGETS = (*plan.TARGETS, *live.TARGETS, *rebalance.TARGETS)
SETTINGS = "fsync synchronous_commit full_page_writes wal_sync_method shared_buffers max_wal_size"


def main() -> int:
    """Reads the command line, measures, reports; the exit code."""
    asked = read_arguments()
    console = Console()
    if missing := missing_drivers():
        console.print(f"The load drivers are missing: apt-get install {' '.join(missing)}")
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix=".data-bench-", dir=HERE.parent) as folder:
            measure(asked, Path(folder), console)
    except (BenchmarkError, MeshError) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped; nothing was written.")
        return 130
    return 0


def read_arguments() -> argparse.Namespace:
    """How long to measure; `--quick` overrides the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of each run of a driver")
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken over the rounds")
    parser.add_argument("--quick", action="store_true", help="2 seconds, 1 round, writes nothing")
    asked = parser.parse_args()
    if asked.quick:
        asked.seconds, asked.rounds = 2, 1
    return asked


def measure(asked: argparse.Namespace, folder: Path, console: Console) -> None:
    """Starts all systems, measures all rounds, shows the tables and writes RESULTS.md."""
    results = Results()
    described = machine.describe(folder)
    with systems.postgres(folder) as server:
        described |= settings_of(server)
        for name, value in described.items():
            console.print(f"{name}: {value}", markup=False, highlight=False)
        neighbours = machine.Neighbours()
        measure_orders_and_reads(asked, folder, server, results, console)
        measure_listing(asked, folder, server, results, console)
        measure_live(asked, folder, server, results, console)
        if not asked.quick:
            measure_planning(folder, server, results, console)
        taken = neighbours.share()
    described["CPU that others took"] = f"{taken:.0%} of all cores while it ran"
    console.print(report.figures_table(results))
    targets = tuple(target for target in TARGETS if target.of in results.samples)
    console.print(report.ratios_table(results, targets))
    console.print(f"Others took {taken:.0%} of the CPU while this ran.", highlight=False)
    if taken > QUIET:
        console.print("The machine was not quiet: these figures mean little.", style="red")
    if not asked.quick:
        how = f"Medians of {asked.rounds} interleaved rounds, {asked.seconds} s for each figure."
        text = report.markdown(results, targets, described, how)
        (HERE / "RESULTS.md").write_text(text)
        console.print("Written to benchmarks/RESULTS.md.")


def measure_orders_and_reads(
    asked: argparse.Namespace,
    folder: Path,
    server: systems.Database,
    results: Results,
    console: Console,
) -> None:
    """Orders and invested reads, in every system, all of them up at the same time."""
    with ExitStack() as up:
        router_database, peer_database = server.create("router"), server.create("peer")
        router = up.enter_context(systems.router(router_database, folder))
        parts = plan.Parts(
            router=router,
            envoy=up.enter_context(systems.envoy(router, folder)),
            peer=up.enter_context(systems.peer(peer_database, folder)),
            bare=up.enter_context(systems.empty_server(folder)),
            router_database=router_database,
            peer_database=peer_database,
            pgbench_database=server.create("pgbench"),
        )
        plan.prepare(parts)
        with systems.router(parts.pgbench_database, folder) as address:
            plan.prepare_router(address)
        run_rounds(plan.steps(parts, asked.seconds), asked.rounds, server, results, console)


def measure_listing(
    asked: argparse.Namespace,
    folder: Path,
    server: systems.Database,
    results: Results,
    console: Console,
) -> None:
    """Listing on two routers, one whose database holds 1,000 orders and one with 1,000,000."""
    few, million = server.create("few"), server.create("million")
    with systems.router(few, folder) as one, systems.router(million, folder) as other:
        plan.prepare_listing(one, few, 1_000)
        plan.prepare_listing(other, million, 1_000_000)
        planned = plan.listing_steps(one, other, asked.seconds)
        run_rounds(planned, asked.rounds, server, results, console)


def measure_live(
    asked: argparse.Namespace,
    folder: Path,
    server: systems.Database,
    results: Results,
    console: Console,
) -> None:
    """The way of a LIVE order to the broker, beside the client library with no ledger."""
    with ExitStack() as up:
        router_port, router_gateway = up.enter_context(systems.gateway(folder))
        bare_port, bare_gateway = up.enter_context(systems.gateway(folder))
        database = server.create("live")
        parts = live.LiveParts(
            router=up.enter_context(systems.live_router(database, router_port, folder)),
            router_gateway=router_gateway,
            bare=up.enter_context(systems.bare_broker(bare_port, folder)),
            bare_gateway=bare_gateway,
        )
        live.prepare(parts)
        run_rounds(live.steps(parts, asked.seconds), asked.rounds, server, results, console)


def measure_planning(
    folder: Path, server: systems.Database, results: Results, console: Console
) -> None:
    """Orders while a plan for 1,000 strategies is computed, and while none is; once."""
    database = server.create("planning")
    asyncio.run(rebalance.prepare(database.url, 1000, 1260))
    with systems.router(database, folder) as address:
        for key, sample in rebalance.measure(address).samples().items():
            results.add(key, sample)
            console.print(f"{key.work}: {key.system}: p50 {sample.p50_ms:,.1f} ms", highlight=False)


def run_rounds(
    planned: list[plan.Step],
    rounds: int,
    server: systems.Database,
    results: Results,
    console: Console,
) -> None:
    """Measures every step in every round: what is slow for a while is slow for all."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=rounds * len(planned))
        for round_ in range(rounds):
            server.ask("CHECKPOINT")
            for step in planned:
                key = step.key
                said = f"{key.work}: {key.system}, callers: {key.callers}"
                progress.update(task, description=said)
                sample = step.measure(round_)
                results.add(key, sample)
                progress.console.print(f"{said}: {sample.rate:,.0f}/s", highlight=False)
                progress.advance(task)


def settings_of(server: systems.Database) -> dict[str, str]:
    """PostgreSQL's version, and the settings that a commit's cost depends on."""
    shown = [f"{name} {server.ask(f'SHOW {name}')}" for name in SETTINGS.split()]
    return {"PostgreSQL": ", ".join([server.ask("SHOW server_version"), *shown])}


if __name__ == "__main__":
    sys.exit(main())
