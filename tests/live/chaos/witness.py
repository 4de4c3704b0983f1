"""What the ledger says, for the checks, and the history of single orders, for people."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from google.protobuf import text_format
from grpc import aio

from efficientfrontier.v1.portfolio_service_pb2 import AuditRequest
from efficientfrontier.v1.portfolio_service_pb2_grpc import PortfolioServiceStub
from tests.live.chaos.broker import root_of
from tests.live.chaos.checks import Booked, Ledger, LedgerOrder
from tests.live.chaos.parts import AWAY, Parts

ORDERS = """
SELECT orders.*, broker_order_id IS NOT NULL AS was_sent
FROM orders LEFT JOIN broker_orders USING (order_id) WHERE mode = 'LIVE' ORDER BY order_id
"""
FILLS = """
SELECT fills.* FROM fills JOIN orders USING (order_id) WHERE mode = 'LIVE'
ORDER BY order_id, book_version
"""
CASH = "SELECT * FROM books WHERE mode = 'LIVE'"
DEPOSITS = """
SELECT strategy_name, sum(amount) AS amount FROM cash_entries
WHERE mode = 'LIVE' AND kind IN ('DEPOSIT', 'ADJUSTMENT') GROUP BY strategy_name
"""
POSITIONS = "SELECT * FROM positions WHERE mode = 'LIVE'"
UNATTRIBUTED = "SELECT symbol, quantity - strategies_quantity AS quantity FROM broker_positions"
OPEN = "SELECT count(*) FROM orders WHERE status IN ('PENDING', 'UNKNOWN')"


async def ledger_of(parts: Parts) -> Ledger:
    """All that the ledger says. Raises one of AWAY, or aio.AioRpcError, while a part is away."""
    orders, fills = await parts.fetch(ORDERS), await parts.fetch(FILLS)
    books, positions = await parts.fetch(CASH), await parts.fetch(POSITIONS)
    reserved = {book["strategy_name"]: book["reserved_cash"] for book in books}
    for held in positions:
        reserved[f"{held['strategy_name']} {held['symbol']}"] = held["reserved_quantity"]
    return Ledger(
        {
            str(row["order_id"]): LedgerOrder(
                str(row["order_id"]),
                row["strategy_name"],
                row["request_id"],
                row["symbol"],
                row["side"],
                row["quantity"],
                row["status"],
                row["filled_quantity"],
                row["commission"],
                row["was_sent"],
                row["reason"],
            )
            for row in orders
        },
        [
            Booked(
                str(row["order_id"]),
                root_of(row["execution_id"]),
                row["quantity"],
                row["value"],
                row["commission"],
            )
            for row in fills
        ],
        {row["strategy_name"]: row["amount"] for row in await parts.fetch(DEPOSITS)},
        {book["strategy_name"]: book["cash"] for book in books},
        {(p["strategy_name"], p["symbol"]): p["quantity"] for p in positions if p["quantity"]},
        {where: amount for where, amount in reserved.items() if amount},
        {
            row["symbol"]: row["quantity"]
            for row in await parts.fetch(UNATTRIBUTED)
            if row["quantity"]
        },
        await _audit(parts.routers[0].address),
    )


async def count_open(parts: Parts) -> int:
    """How many orders have not ended. Raises one of AWAY while the database is away."""
    return int((await parts.fetch(OPEN))[0][0])


async def write_histories(
    parts: Parts, order_ids: Iterable[str], steps: Sequence[str]
) -> list[Path]:
    """Writes all that any part knows of these orders into a file each; returns the files.

    `steps` are lines that begin with their time, as those of the logs do here.
    """
    folder = parts.folder / "histories"
    folder.mkdir(exist_ok=True)
    files = []
    for order_id in order_ids:
        told = [*await _in_ledger(parts, order_id), *await _at_broker(parts, order_id)]
        logs = [parts.gateway.log, *(router.log for router in parts.routers)]
        lines = await asyncio.to_thread(_lines_about, order_id, logs)
        file = folder / f"{order_id}.txt"
        file.write_text("\n".join([*told, "", *_with_steps(lines, steps)]) + "\n")
        files.append(file)
    return files


async def _audit(address: str) -> list[str]:
    async with aio.insecure_channel(address) as channel:
        answer = await PortfolioServiceStub(channel).Audit(AuditRequest(), timeout=60)
    differences = [text_format.MessageToString(d, as_one_line=True) for d in answer.differences]
    return differences or ([] if answer.balanced else ["the audit does not balance"])


async def _in_ledger(parts: Parts, order_id: str) -> list[str]:
    with suppress(*AWAY):
        return [
            f"{table}: " + ", ".join(f"{name}={_plain(value)}" for name, value in row.items())
            for table in ("orders", "broker_orders", "order_events", "fills")
            for row in await parts.fetch(f"SELECT * FROM {table} WHERE order_id = '{order_id}'")
        ]
    return []


async def _at_broker(parts: Parts, order_id: str) -> list[str]:
    with suppress(aio.AioRpcError):
        snapshot = await parts.broker.snapshot()
        return [
            f"broker's {kind}: {text_format.MessageToString(one, as_one_line=True)}"
            for kind, rows in (
                ("receipt", snapshot.receipts),
                ("order", snapshot.orders),
                ("execution", snapshot.executions),
            )
            for one in rows
            if one.order_ref == order_id
        ]
    return []


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _with_steps(lines: Sequence[str], steps: Sequence[str]) -> list[str]:
    """Lines of logs with the steps that fell between them, the last one before included."""
    if not lines:
        return list(steps)
    first, last = min(lines), max(lines)
    before = [step for step in steps if step < first][-1:]
    return sorted([*lines, *before, *(step for step in steps if first <= step <= last)])


def _lines_about(order_id: str, logs: Iterable[Path]) -> list[str]:
    """Lines of the logs that name the order, each with its time in front."""
    found = []
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            if order_id in line:
                at = line.rpartition('"time":"')[2].rstrip('"}')
                found.append(f"{at} {log.stem}: {line}")
    return found
