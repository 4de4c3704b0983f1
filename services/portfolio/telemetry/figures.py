"""Figures that need reading: what Prometheus is shown of the ledger, the broker and the database.

One task reads now and then; a scrape shows what was read last, and so costs the database nothing.
Every replica shows the same of the ledger: ask for `max by (strategy_name)`, not for a sum. While
the database is away nothing of it is shown, rather than something old.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version

import structlog
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.portfolio.domain.money import ZERO
from services.portfolio.domain.order import Mode, Status
from services.portfolio.domain.risk import Heights, growth_of_whole
from services.portfolio.live.gate import Session
from services.portfolio.live.ports import Seen
from services.portfolio.ports import BookKey, Clock, UnavailableError
from services.portfolio.risk.ports import RiskReads, WholeHeights
from services.portfolio.telemetry.ports import FigureReads, Reading, StrategyFigures

# With 1,000 strategies and years of closes, reading the heights of the whole takes seconds. Before
# they are read again, this many times as long must have passed.
RESTS = 100.0
READ_WITHIN_S = 60.0  # twice a statement's limit, which a server that is frozen does not keep
OPEN = (Status.PENDING, Status.UNKNOWN)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Shown:
    """What was read last."""

    reading: Reading
    drawdowns: dict[str, float]  # by strategy
    drawdown: float | None  # of the whole; None: it was never valued, or is not known yet


class Figures(Collector):
    """Reads, and shows what was read."""

    def __init__(
        self,
        reads: FigureReads,
        risk: RiskReads,
        seen: Callable[[], Seen],
        clock: Clock,
        *,
        trading_mode: Mode,
        session: Session | None,
        every_s: float,
    ) -> None:
        """`seen`: what is known of the broker. `session`: the exchange's, if orders keep to it."""
        self._reads = reads
        self._drawdowns = Drawdowns(risk)
        self._seen = seen
        self._clock = clock
        self._trading_mode = trading_mode
        self._session = session
        self._every_s = every_s
        self._shown: _Shown | None = None

    async def run(self) -> None:
        """Reads for ever."""
        while True:
            try:
                async with asyncio.timeout(READ_WITHIN_S):
                    await self.read()
            except (UnavailableError, TimeoutError):
                self._shown = None
            except Exception:
                # A fault of ours must not leave everybody blind until the router is started again.
                self._shown = None
                log.exception("reading_failed", again_in_s=self._every_s)
            await asyncio.sleep(self._every_s)

    async def read(self) -> None:
        """Reads once.

        Raises:
            UnavailableError: The database is away.
        """
        reading = await self._reads.reading()
        await self._drawdowns.learn(reading.strategies)
        self._shown = _Shown(
            reading,
            {each.strategy_name: self._drawdowns.of(each) for each in reading.strategies},
            self._drawdowns.of_whole(reading.strategies),
        )
        await self._drawdowns.learn_whole(reading.strategies)  # for the next time: it may take long

    def describe(self) -> Iterator[Metric]:
        """Nothing: what there is may change from one reading to the next."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """What was read last. Called by the thread that answers a scrape."""
        shown = self._shown
        yield self._build_info()
        yield from self._connections()
        yield _gauge("portfolio_database_up", "1: the last reading succeeded.", shown is not None)
        if self._trading_mode is Mode.LIVE:
            yield from self._broker()
        if shown is not None:
            yield from _of_strategies(shown)
            yield from _of_whole(shown)
            yield from _of_orders(shown.reading)
            yield from _of_database(shown.reading)

    def _build_info(self) -> Metric:
        family = GaugeMetricFamily(
            "portfolio_build_info", "1; which router this is.", labels=["version", "trading_mode"]
        )
        family.add_metric([_version(), self._trading_mode], 1)
        return family

    def _connections(self) -> Iterator[Metric]:
        now = self._reads.connections()
        family = GaugeMetricFamily(
            "portfolio_database_connections", "Connections of the pool.", labels=["state"]
        )
        family.add_metric(["used"], now.used)
        family.add_metric(["idle"], now.idle)
        yield family

    def _broker(self) -> Iterator[Metric]:
        frozen = self._seen().frozen
        yield _gauge(
            "portfolio_broker_frozen_symbols",
            "Symbols in which ledger and broker differ, so that no orders are taken.",
            len(frozen),
        )
        family = GaugeMetricFamily(
            "portfolio_broker_unexplained_shares",
            "Of each frozen symbol: the broker's shares that are neither a strategy's nor said to "
            "be nobody's; below 0: that it lacks.",
            labels=["symbol"],
        )
        for symbol, row in frozen.items():
            family.add_metric([symbol], float(row.unattributed - row.acknowledged))
        yield family
        if self._session is not None:
            try:
                is_open = self._session.next_open(self._clock()) is None
            except UnavailableError:  # the sessions are not known that far ahead
                return
            yield _gauge("portfolio_exchange_open", "1 during a regular session.", is_open)


class Drawdowns:
    """How far growth is below its highest since the last resume: as limits judge it."""

    def __init__(self, risk: RiskReads) -> None:
        self._risk = risk
        self._heights: dict[BookKey, tuple[int, Heights]] = {}
        self._whole: WholeHeights | None = None
        self._read_whole_after = 0.0  # by the loop's clock

    async def learn(self, strategies: Sequence[StrategyFigures]) -> None:
        """Reads the heights of what was valued since they were read."""
        known = {each.key: self._heights.get(each.key, (0, None))[0] for each in strategies}
        new = [each.key for each in strategies if known[each.key] != each.number]
        self._heights = {key: self._heights[key] for key in known if key in self._heights}
        if new:
            self._heights |= await self._risk.heights(new)

    async def learn_whole(self, strategies: Sequence[StrategyFigures]) -> None:
        """Reads the heights of the whole, if any book was valued since, and not too often."""
        clock = asyncio.get_running_loop().time
        began = clock()
        if began < self._read_whole_after or (self._whole and self._is_of(strategies)):
            return
        try:
            self._whole = await self._risk.heights_of_whole()
        except UnavailableError as error:  # it took too long, say; all else is known
            log.warning("drawdown_of_whole_not_read", why=error.message)
        ended = clock()
        self._read_whole_after = ended + RESTS * (ended - began)

    def of(self, strategy: StrategyFigures) -> float:
        """The drawdown of a strategy, as a share of 1; 0 before its first valuation."""
        _, heights = self._heights.get(strategy.key, (0, None))
        return _drawdown(strategy.growth, heights.high) if heights else 0.0

    def of_whole(self, strategies: Sequence[StrategyFigures]) -> float | None:
        """The drawdown of all books together; None while it is not known as of now."""
        if self._whole is None or not self._is_of(strategies):
            return None
        growths = {each.key: each.growth for each in strategies}
        parts = [(part, growths[key]) for key, part in self._whole.parts.items()]
        growth = growth_of_whole(self._whole.heights.close, parts)
        return _drawdown(growth, self._whole.heights.high)

    def _is_of(self, strategies: Sequence[StrategyFigures]) -> bool:
        parts = self._whole.parts if self._whole else {}
        numbers = {each.key: each.number for each in strategies if each.number}
        return {key: part.number for key, part in parts.items()} == numbers


def _drawdown(growth: Decimal, high: Decimal) -> float:
    return max(0.0, 1 - float(growth / high)) if high > ZERO else 0.0


def _of_strategies(shown: _Shown) -> Iterator[Metric]:
    strategies = shown.reading.strategies

    def family(name: str, meaning: str, value: Callable[[StrategyFigures], float | None]) -> Metric:
        found = GaugeMetricFamily(name, meaning, labels=["strategy_name"])
        for each in strategies:
            if (figure := value(each)) is not None:
                found.add_metric([each.strategy_name], figure)
        return found

    prefix = "portfolio_strategy"
    yield family(f"{prefix}_equity_usd", "Cash and positions.", lambda each: each.equity_usd)
    yield family(f"{prefix}_cash_usd", "Cash, what is reserved too.", lambda each: each.cash_usd)
    yield family(
        f"{prefix}_drawdown_ratio",
        "How far its growth is below its highest since it was last resumed.",
        lambda each: shown.drawdowns[each.strategy_name],
    )
    yield family(
        f"{prefix}_max_drawdown_ratio",
        "Its limit, beyond which it is halted; only where there is one.",
        lambda each: each.max_drawdown,
    )
    yield family(f"{prefix}_halted", "1: it places no orders.", lambda each: each.is_halted)
    yield family(
        f"{prefix}_silent",
        "1: it has reported no price for longer than its lease.",
        lambda each: each.is_silent,
    )
    yield family(
        f"{prefix}_live", "1: its mode in force is LIVE.", lambda each: each.mode is Mode.LIVE
    )
    yield family(
        f"{prefix}_last_price_timestamp_seconds",
        "When it last reported a price.",
        lambda each: each.seen_s,
    )


def _of_whole(shown: _Shown) -> Iterator[Metric]:
    reading = shown.reading
    equity = sum(each.equity_usd for each in reading.strategies)
    yield _gauge("portfolio_equity_usd", "Of all strategies, the reserve left out.", equity)
    if shown.drawdown is not None:
        yield _gauge(
            "portfolio_drawdown_ratio",
            "How far the growth of the whole is below its highest since it was last resumed.",
            shown.drawdown,
        )
    yield _gauge("portfolio_halted", "1: the kill switch is on.", reading.is_halted)
    reserve = GaugeMetricFamily("portfolio_reserve_usd", "What no strategy has.", labels=["mode"])
    for mode, cash in reading.reserve_usd.items():
        reserve.add_metric([mode], cash)
    yield reserve


def _of_orders(reading: Reading) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "portfolio_open_orders", "Orders that have not ended.", labels=["mode", "status"]
    )
    for mode in Mode:
        for status in OPEN:
            family.add_metric([mode, status], reading.open_orders.get((mode, status), 0))
    yield family
    yield _gauge(
        "portfolio_oldest_unknown_order_seconds",
        "For how long the oldest order that is UNKNOWN has been so; 0: there is none.",
        reading.oldest_unknown_s,
    )
    if reading.compared_s is not None:
        yield _gauge(
            "portfolio_broker_compared_timestamp_seconds",
            "When the ledger was last compared with the broker.",
            reading.compared_s,
        )
    if reading.unallocated_usd is not None:
        yield _gauge(
            "portfolio_broker_unallocated_usd",
            "The broker's cash that no strategy has; below 0: strategies have too much.",
            reading.unallocated_usd,
        )


def _of_database(reading: Reading) -> Iterator[Metric]:
    yield _gauge(
        "portfolio_database_ping_seconds", "How long the simplest question took.", reading.ping_s
    )
    standbys = reading.standbys
    if standbys is None:
        return
    yield _gauge("portfolio_database_standbys", "Servers that follow it.", standbys.count)
    yield _gauge(
        "portfolio_database_synchronous",
        "1: a commit waits for a standby.",
        standbys.are_waited_for,
    )
    if standbys.lag_s is not None:
        yield _gauge(
            "portfolio_database_standby_lag_seconds",
            "How far the slowest standby is behind.",
            standbys.lag_s,
        )


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _version() -> str:
    try:
        return version("efficientfrontier-portfolio")
    except PackageNotFoundError:  # it runs from its files
        return "unknown"
