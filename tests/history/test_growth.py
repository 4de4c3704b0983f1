"""Whatever is traded, paid in and taken out: growth is the time-weighted return.

The tally multiplies fractions, one for each price that changed what a book is worth. It knows
nothing of valuations, sessions or Decimal.
"""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from services.portfolio.brokers.paper import PaperBroker
from services.portfolio.commands import CreateOrder, SellAll, SetPosition
from services.portfolio.domain.errors import LedgerError
from services.portfolio.domain.order import Side
from tests.history.desk import Desk, day, desk_on
from tests.ledger.amounts import PROPERTY, exactly
from tests.ports.stores import memory_store
from tests.writer.desks import assert_balanced

NAME = "A"
SYMBOLS = ("SPXL", "AVL")
COMMISSION = Decimal("0.01")  # a share
STEP = Fraction(1, 10**18)  # growth is kept to this, a valuation

SYMBOL = st.sampled_from(SYMBOLS)
PRICE = st.integers(1, 5_000).map(lambda cents: Decimal(cents).scaleb(-2))
MOVE = (
    st.tuples(st.just("mark"), PRICE, PRICE, st.sampled_from([0, 1, 1, 2]))
    | st.tuples(st.just("buy"), SYMBOL, st.integers(1, 200), PRICE)
    | st.tuples(st.just("sell"), SYMBOL, PRICE)
    | st.tuples(st.just("cash"), st.integers(0, 100_000).map(Decimal))
    | st.tuples(st.just("shares"), SYMBOL, st.integers(1, 50), PRICE)
)
MOVES = st.lists(MOVE, min_size=15, max_size=40)


Closed = tuple[int, Fraction, Fraction, Fraction, Fraction]


@dataclass
class Tally:
    """One book, and what 1 USD in it has become."""

    cash: Fraction = Fraction(0)
    shares: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(SYMBOLS, Fraction()))
    prices: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(SYMBOLS, Fraction()))
    costs: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(SYMBOLS, Fraction()))
    growth: Fraction = Fraction(1)

    @property
    def equity(self) -> Fraction:
        """Cash, and shares at their last prices."""
        return self.cash + sum(self.shares[s] * self.prices[s] for s in SYMBOLS)

    def gain(self, before: Fraction) -> None:
        """Links what the book is worth now to what it was worth before."""
        if before > 0:
            self.growth *= self.equity / before


@dataclass
class Played:
    """The tally, and what it said at each close: session, equity, cash, flow, growth."""

    tally: Tally = field(default_factory=Tally)
    session: int = 0
    flowed: Fraction = Fraction(0)
    closes: list[Closed] = field(default_factory=list)

    def close(self) -> None:
        """The session ends."""
        tally = self.tally
        self.closes.append((self.session, tally.equity, tally.cash, self.flowed, tally.growth))
        self.flowed = Fraction(0)


async def play(desk: Desk, moves: list[tuple[object, ...]]) -> Played:
    """Makes the moves on the desk and in the tally; the desk may refuse some."""
    played = Played()
    await desk.set_cash(NAME, 10_000)
    played.tally.cash = played.flowed = Fraction(10_000)
    for move in [("mark", Decimal(10), Decimal(20), 1), *moves, ("mark", *[Decimal(1)] * 2, 1)]:
        await _make(desk, played, move)
    return played


async def _make(desk: Desk, played: Played, move: tuple[object, ...]) -> None:
    tally = played.tally
    before = tally.equity
    match move:
        case ("mark", Decimal() as one, Decimal() as other, int(later)):
            if later and played.session:
                played.close()
            played.session += later or not played.session
            await desk.mark(NAME, day(played.session), SPXL=one, AVL=other)
            tally.prices = {"SPXL": exactly(one), "AVL": exactly(other)}
            tally.gain(before)
        case ("buy", str(symbol), int(quantity), Decimal() as price):
            command = CreateOrder(NAME, symbol, Side.BUY, Decimal(quantity), price)
            try:
                await desk.writer.submit(command)
            except LedgerError:
                return
            tally.cash -= quantity * (exactly(price) + exactly(COMMISSION))
            tally.shares[symbol] += quantity
            tally.costs[symbol] += quantity * exactly(price)
            tally.prices[symbol] = exactly(price)
            tally.gain(before)
        case ("sell", str(symbol), Decimal() as price):
            try:
                await desk.writer.submit(SellAll(NAME, symbol, price))
            except LedgerError:
                return
            tally.cash += tally.shares[symbol] * (exactly(price) - exactly(COMMISSION))
            tally.shares[symbol] = tally.costs[symbol] = Fraction(0)
            tally.prices[symbol] = exactly(price)
            tally.gain(before)
        case ("cash", Decimal() as cash):
            await desk.set_cash(NAME, cash)
            tally.cash = exactly(cash)
            played.flowed += tally.equity - before
        case ("shares", str(symbol), int(quantity), Decimal() as price):
            await desk.writer.submit(SetPosition(NAME, symbol, Decimal(quantity), price))
            cost = quantity * exactly(price)
            if (quantity, cost) != (tally.shares[symbol], tally.costs[symbol]):
                tally.shares[symbol], tally.costs[symbol] = Fraction(quantity), cost
                played.flowed += tally.equity - before  # worth what they were seen at, not the cost
        case _:
            raise AssertionError(move)


def test_growth_is_the_time_weighted_return_and_equity_is_exact() -> None:
    seen = []

    @PROPERTY
    @given(MOVES)
    def holds(moves: list[tuple[object, ...]]) -> None:
        closes = asyncio.run(_check(moves))
        seen.append((len(closes), any(growth != 1 for *_, growth in closes)))

    holds()
    # Else it held of nothing.
    assert sum(number > 3 and grew for number, grew in seen) > len(seen) / 4


async def _check(
    moves: list[tuple[object, ...]],
) -> list[Closed]:
    store = memory_store()
    async with desk_on(store, PaperBroker(COMMISSION)) as desk:
        played = await play(desk, moves)
        closes = await desk.closes(NAME)
        assert len(closes) == len(played.closes)
        for close, (session, equity, cash, flowed, growth) in zip(
            closes, played.closes, strict=True
        ):
            assert close.session == day(session)
            assert (exactly(close.equity), exactly(close.cash)) == (equity, cash)
            assert exactly(close.flow) == flowed
            assert abs(close.growth - float(growth)) <= max(float(growth), 1.0) * 1e-12
        valuations = store.ledger.tables.valuations.values()  # type: ignore[attr-defined]
        last = [v for v in valuations if v.kind == "CLOSE"][-1]
        wanted = played.closes[-1][4]
        # Each valuation rounds once, and what follows multiplies that.
        assert abs(exactly(last.growth) - wanted) <= 100 * STEP * (wanted + 1) * len(valuations)
        await assert_balanced(store.reads)
    return played.closes
