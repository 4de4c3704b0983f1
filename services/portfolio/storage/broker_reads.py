"""Reads of what the elected sender last said and saw, for every replica."""

from datetime import UTC, datetime

from services.portfolio.domain.money import ZERO
from services.portfolio.domain.reconciliation import Reconciliation
from services.portfolio.domain.weather import BrokerState, MarketData, Weather
from services.portfolio.storage.database import Database
from services.portfolio.storage.rows import symbol_row_of
from services.portfolio.storage.statements import ACKNOWLEDGED

# The age of the heartbeat by one clock, the database's: machines' clocks may differ.
WEATHER = """
SELECT state, since, detail, market_data, account, sender, clock_timestamp() - heartbeat AS age
FROM broker_weather
"""

# A row for each symbol, or one without any; none before the first comparison.
RECONCILIATION = f"""
SELECT account.time, account.cash, account.strategies_cash, account.net_liquidation,
       symbol, compared.quantity AS broker,
       compared.strategies_quantity AS strategies, coalesce(newest.quantity, 0) AS acknowledged
FROM broker_account account
LEFT JOIN broker_positions compared ON true
LEFT JOIN ({ACKNOWLEDGED}) AS newest USING (symbol)
ORDER BY symbol
"""  # noqa: S608 - no value is spliced in


class PostgresBrokerReads:
    """Reads from PostgreSQL. Raises UnavailableError when it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def weather(self) -> Weather | None:
        """The sender's last word, its heartbeat by this machine's clock; None before the first."""
        async with self._database.hot() as connection:
            row = await connection.fetchrow(WEATHER)
        if row is None:
            return None
        return Weather(
            BrokerState(row["state"]),
            row["since"],
            row["detail"],
            MarketData(row["market_data"]),
            row["account"],
            row["sender"],
            datetime.now(UTC) - row["age"],
        )

    async def reconciliation(self) -> Reconciliation:
        """The last comparison as it was kept, with the acknowledgements of now."""
        async with self._database.hot() as connection:
            found = await connection.fetch(RECONCILIATION)
        if not found:
            return Reconciliation(None, (), None, ZERO)
        rows = tuple(symbol_row_of(row) for row in found if row["symbol"] is not None)
        first = found[0]
        return Reconciliation(
            first["time"], rows, first["cash"], first["strategies_cash"], first["net_liquidation"]
        )
