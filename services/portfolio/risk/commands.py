"""The commands of risk control: limits, halts, and sales of all that is held.

The guardians of all replicas submit the last four, each as often as it likes: they look again under
the lock, and do nothing where nothing is to be done (any more).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal

from services.portfolio.batch import Batch
from services.portfolio.commands import PortfolioOf, SetState, sell_out
from services.portfolio.domain import ledger
from services.portfolio.domain.book import State, Strategy
from services.portfolio.domain.errors import LedgerError
from services.portfolio.domain.money import plain, plain_quantity
from services.portfolio.domain.order import Mode, Order, Status
from services.portfolio.domain.position import Position
from services.portfolio.domain.risk import (
    Heights,
    Limits,
    OnSilence,
    Part,
    RiskEventKind,
    StrategyLimits,
    beyond,
    growth_of_whole,
    is_silent,
)
from services.portfolio.domain.valuation import ValuationKind, growth_of
from services.portfolio.ports import BookKey, Needs, UnavailableError
from services.portfolio.views import WholeView

ROUTER = "router"  # the actor of what a limit decided


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Replace all limits of a strategy, or without a name of the whole.

    Books that were never valued are, so that what halts is judged from then on.
    """

    strategy_name: str
    limits: Limits
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        if not self.strategy_name:
            # Once it is answered, no order is judged by the limits before, on any replica.
            return Needs(everyone=True, valued=True)
        return Needs(strategies=(self.strategy_name,), valued=True)

    def run(self, batch: Batch) -> StrategyLimits:  # noqa: D102 - as in Command
        now = batch.desk.now
        if self.strategy_name:
            strategy = batch.strategy(self.strategy_name)
            before = strategy.limits
            if before != self.limits:
                batch.record_strategy(replace(strategy, limits=self.limits, update_time=now))
        else:
            before = batch.whole.limits
            if before != self.limits:
                batch.record_whole(replace(batch.whole, limits=self.limits, update_time=now))
        if before != self.limits:
            batch.record_risk(
                self.strategy_name, RiskEventKind.LIMITS, _difference(before, self.limits)
            )
        if self.limits.may_halt:
            _value_first(batch, self.strategy_name)
        return StrategyLimits(self.strategy_name, self.limits)


@dataclass(frozen=True, slots=True)
class HaltStrategy:
    """Halt a strategy, and sell what it holds if asked."""

    strategy_name: str
    reason: str = ""
    flatten: bool = False
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        names = (self.strategy_name,)
        return Needs(strategies=names, valued=self.flatten, open_orders=self.flatten)

    def run(self, batch: Batch) -> PortfolioOf:  # noqa: D102 - as in Command
        answer = SetState(self.strategy_name, State.HALTED, self.reason).run(batch)
        if self.flatten:
            _flatten(batch, batch.strategy(self.strategy_name), batch.open_orders())
        return answer


@dataclass(frozen=True, slots=True)
class HaltPortfolio:
    """The kill switch: halt everything, and sell all that is held if asked.

    No batch runs beside this one, on any replica, and each that comes after it sees what it wrote:
    once it is answered, no order is accepted.
    """

    reason: str = ""
    flatten: bool = False
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(everyone=True, valued=self.flatten, open_orders=self.flatten)

    def run(self, batch: Batch) -> WholeView:  # noqa: D102 - as in Command
        _halt_everything(batch, self.reason)
        left = _flatten_everything(batch) if self.flatten else ""
        view = _view(batch)
        return replace(view, reason=" ".join(filter(None, (view.reason, left))))


@dataclass(frozen=True, slots=True)
class ResumePortfolio:
    """End HaltPortfolio. All books are valued, so that what halts is judged from then on."""

    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(everyone=True, valued=True)

    def run(self, batch: Batch) -> WholeView:  # noqa: D102 - as in Command
        if batch.whole.halted:
            now = batch.desk.now
            batch.record_whole(replace(batch.whole, halted=False, halt_reason="", update_time=now))
            for strategy in batch.strategies():
                batch.record_strategy(
                    replace(
                        strategy,
                        portfolio_halted=False,
                        flattening=strategy.flattening and strategy.state is State.HALTED,
                        update_time=now,
                    )
                )
                for book in batch.books(strategy.name):
                    batch.record_valuation(book, ValuationKind.FLOW)
            batch.record_risk("", RiskEventKind.RESUME, "")
        return _view(batch)


@dataclass(frozen=True, slots=True)
class HaltForRisk:
    """Halt a strategy whose growth is beyond its limits.

    `number` says of which valuation the heights are. With a newer one there may be other heights:
    nothing is done, and the guardian looks again.
    """

    strategy_name: str
    mode: Mode
    number: int
    heights: Heights
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=True)

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        key = (strategy.name, strategy.mode)
        if strategy.is_halted or (strategy.mode, _number(batch, key)) != (self.mode, self.number):
            return
        why = beyond(strategy.limits, _growth(batch, key), self.heights)
        if why:
            batch.record_strategy(
                replace(strategy, state=State.HALTED, halt_reason=why, update_time=batch.desk.now)
            )
            batch.record_risk(strategy.name, RiskEventKind.HALT, why, ROUTER)


@dataclass(frozen=True, slots=True)
class HaltAllForRisk:
    """Halt everything when the growth of the whole is beyond its limits. As HaltForRisk."""

    heights: Heights
    parts: Mapping[BookKey, Part]
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(everyone=True, valued=True)

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        keys = [(strategy.name, strategy.mode) for strategy in batch.strategies()]
        seen = {key: part.number for key, part in self.parts.items()}
        now = {key: number for key in keys if (number := _number(batch, key))}
        if batch.whole.halted or seen != now:
            return
        parts = [(part, _growth(batch, key)) for key, part in self.parts.items()]
        growth = growth_of_whole(self.heights.close, parts)
        why = beyond(batch.whole.limits, growth, self.heights)
        if why:
            _halt_everything(batch, why, ROUTER)


@dataclass(frozen=True, slots=True)
class NoteSilence:
    """Note that a strategy fell silent or was heard again; sell what a silent one holds if told."""

    strategy_name: str
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=True, open_orders=True)

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        desk = batch.desk
        limits = strategy.limits
        seen_time = batch.seen_time(strategy.name)
        silent = is_silent(limits.lease_s, seen_time, desk.now)
        if silent is strategy.silent:
            return
        if not silent:
            halted = strategy.is_halted
            heard = replace(strategy, silent=False, flattening=strategy.flattening and halted)
            batch.record_strategy(heard)
            batch.record_risk(strategy.name, RiskEventKind.HEARD, "", ROUTER)
            return
        noted = replace(strategy, silent=True, update_time=desk.now)
        batch.record_strategy(noted)
        assert seen_time is not None and limits.lease_s is not None  # noqa: S101, PT018 - it is silent
        batch.record_risk(
            strategy.name,
            RiskEventKind.SILENT,
            f"It reported its last price {(desk.now - seen_time).total_seconds():.3f} s ago; "
            f"lease_s is {plain_quantity(limits.lease_s)}, on_silence {limits.on_silence}.",
            ROUTER,
        )
        if limits.on_silence is OnSilence.FLATTEN:
            _flatten(batch, noted, batch.open_orders(), ROUTER)


@dataclass(frozen=True, slots=True)
class SellTheRest:
    """Go on selling what a strategy holds that is to be flat: what was reserved, or refused.

    Answers the last order that it placed; None when there was nothing to sell.
    """

    strategy_name: str
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=True, open_orders=True)

    def run(self, batch: Batch) -> Order | None:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        # Who was silent and reports prices again is not sold any more, noted or not.
        seen_time = batch.seen_time(strategy.name)
        silent = is_silent(strategy.limits.lease_s, seen_time, batch.desk.now)
        if not strategy.flattening or not (strategy.is_halted or silent):
            return None
        orders = _flatten(batch, strategy, batch.open_orders(), ROUTER).orders
        return orders[-1] if orders else None


def _value_first(batch: Batch, strategy_name: str) -> None:
    """Values what was never valued, such as books that are older than valuations."""
    names = [strategy_name] if strategy_name else [each.name for each in batch.strategies()]
    for book in (book for name in names for book in batch.books(name)):
        if batch.last_valuation((book.strategy_name, book.mode)) is None:
            batch.record_valuation(book, ValuationKind.FLOW)


def _halt_everything(batch: Batch, reason: str, actor: str = "") -> None:
    """Halts all strategies. Done again, it changes nothing but the reason, if one is given."""
    now = batch.desk.now
    for strategy in batch.strategies():
        if not strategy.portfolio_halted:
            batch.record_strategy(replace(strategy, portfolio_halted=True, update_time=now))
    whole = batch.whole
    if not whole.halted or reason not in ("", whole.halt_reason):
        batch.record_whole(replace(whole, halted=True, halt_reason=reason, update_time=now))
        batch.record_risk("", RiskEventKind.HALT, reason, actor)


def _flatten_everything(batch: Batch) -> str:
    """Sells what all strategies hold. Returns what is still held where it could not be sold."""
    open_orders = batch.open_orders()
    sales = [_flatten(batch, strategy, open_orders) for strategy in batch.strategies()]
    return " ".join(refused for sale in sales for refused in sale.refused)


@dataclass(slots=True)
class _Sale:
    """What became of the sale of all that a book holds."""

    done: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)


def _flatten(
    batch: Batch,
    strategy: Strategy,
    open_orders: Mapping[BookKey, Iterable[Order]],
    actor: str = "",
) -> _Sale:
    """Cancels a strategy's open orders, and sells what its book in force holds, at the market.

    What the broker must cancel or fill first, or refuses, is left to SellTheRest: the strategy is
    `flattening` until its book is flat.
    """
    key = (strategy.name, strategy.mode)
    sale = _Sale()
    if not strategy.flattening:  # later on, open orders are those that sell
        sale.done += [_cancel(batch, order) for order in open_orders.get(key, ())]
    for _, position in sorted(batch.book(key).positions.items()):
        if position.free_quantity <= 0:
            continue
        shares = f"{plain_quantity(position.free_quantity)} {position.symbol}"
        try:
            order = _sell(batch, strategy, position)
        except (LedgerError, UnavailableError) as error:
            sale.refused.append(f"{shares} of {strategy.name} not sold yet: {error.message}")
        else:
            sale.orders.append(order)
            sale.done.append(f"sale of {shares} at {plain(order.price)} USD {order.status}")
    flattening = not batch.book(key).is_flat
    if flattening is not strategy.flattening:
        batch.record_strategy(replace(strategy, flattening=flattening, update_time=batch.desk.now))
    if sale.done or (sale.refused and not strategy.flattening):
        why = "; ".join((*sale.done, *sale.refused))
        batch.record_risk(strategy.name, RiskEventKind.FLATTEN, why, actor)
    return sale


def _cancel(batch: Batch, order: Order) -> str:
    """Cancels an order, or asks the broker to; says so."""
    what = f"{order.side} of {plain_quantity(order.open_quantity)} {order.symbol}"
    if order.mode is Mode.LIVE:
        batch.record_cancel_request(order)
        return f"cancellation of the {what} requested"
    desk = batch.desk
    book = batch.book((order.strategy_name, order.mode))
    batch.record_booking(
        ledger.end(book, order, Status.CANCELLED, "All that is held is sold.", desk.now, desk.actor)
    )
    return f"{what} cancelled"


def _sell(batch: Batch, strategy: Strategy, position: Position) -> Order:
    """Orders the sale of all that is free of a position, at the market.

    Raises:
        LedgerError: It cannot be sold now.
        UnavailableError: The broker is away.
    """
    price = batch.market_price(batch.book((strategy.name, strategy.mode)), position)
    if not price:
        raise LedgerError(f"No price of {position.symbol} is known. Report one with POST /prices.")
    return sell_out(batch, strategy, position.symbol, price)


def _view(batch: Batch) -> WholeView:
    whole = batch.whole
    return WholeView(whole.halted, whole.halt_reason, len(batch.strategies()), whole.update_time)


def _number(batch: Batch, key: BookKey) -> int:
    last = batch.last_valuation(key)
    return last.number if last else 0


def _growth(batch: Batch, key: BookKey) -> Decimal:
    """What 1 USD of the book's beginning is worth now."""
    book = batch.book(key)
    return growth_of(batch.last_valuation(key), book.cash + batch.positions_value(book))


def _difference(before: Limits, after: Limits) -> str:
    """What changed, for a person to read."""
    pairs = [
        (each.name, getattr(before, each.name), getattr(after, each.name)) for each in fields(after)
    ]
    return "; ".join(f"{name} {_shown(a)} -> {_shown(b)}" for name, a, b in pairs if a != b)


def _shown(limit: object) -> str:
    if isinstance(limit, Decimal):
        return plain_quantity(limit)
    return "none" if limit is None else str(limit)
