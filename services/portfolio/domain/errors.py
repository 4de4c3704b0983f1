"""What the ledger refuses, and why: one class a reason.

`reason` is a word of ErrorReason in the contract; `figures` are the values that explain it. The
message says what, with which values, and what to do next. Nothing here knows of gRPC.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from services.portfolio.domain.money import LARGEST, plain, plain_quantity
from services.portfolio.domain.reconciliation import SymbolRow


class LedgerError(Exception):
    """A command that the ledger refuses. Nothing was written."""

    reason = "INTERNAL_ERROR"

    def __init__(self, message: str, **figures: str) -> None:
        super().__init__(message)
        self.message = message
        self.figures: Mapping[str, str] = figures


class NotFoundError(LedgerError):
    """What the command names does not exist."""


class ConflictError(LedgerError):
    """The request_id was used before."""


class ForbiddenError(LedgerError):
    """The ledger's rules forbid it as things stand."""


class NotAllowedError(LedgerError):
    """The caller's role does not allow it, or it is another strategy's."""

    reason = "NOT_ALLOWED"

    def __init__(self, actor: str, what: str, rights: str) -> None:
        super().__init__(f"{actor} may not {what}. {rights}", actor=actor)


class StrategyNotFoundError(NotFoundError):
    """No strategy has this name."""

    reason = "STRATEGY_NOT_FOUND"

    def __init__(self, strategy_name: str) -> None:
        super().__init__(
            f"There is no strategy {strategy_name}. Create it with POST /portfolio "
            f'{{"strategy_name": "{strategy_name}", "cash": 20000}}.',
            strategy_name=strategy_name,
        )


class NotAStrategyError(NotFoundError):
    """The name is that of the cash that no strategy has."""

    reason = "STRATEGY_NOT_FOUND"

    def __init__(self, strategy_name: str) -> None:
        super().__init__(
            f"{strategy_name} is the name of the cash that no strategy has, which GET /allocation "
            "shows and transfers alone change. Give a strategy another name.",
            strategy_name=strategy_name,
        )


class OrderNotFoundError(NotFoundError):
    """No order has this id."""

    reason = "ORDER_NOT_FOUND"

    def __init__(self, order_id: str) -> None:
        super().__init__(
            f"There is no order {order_id}. GET /orders lists the orders there are.",
            order_id=order_id,
        )


class PlanNotFoundError(NotFoundError):
    """No plan has this id."""

    reason = "PLAN_NOT_FOUND"

    def __init__(self, plan_id: str) -> None:
        super().__init__(
            f"There is no plan {plan_id}. POST /allocation:plan makes one; GET /allocation/plans "
            "lists the plans there are.",
            plan_id=plan_id,
        )


class PositionNotFoundError(NotFoundError):
    """No open position has this id."""

    reason = "POSITION_NOT_FOUND"

    def __init__(self, position_id: str) -> None:
        super().__init__(
            f"There is no position {position_id}. GET /positions lists the positions there are; "
            "POST /positions creates one.",
            position_id=position_id,
        )


class RequestIdReusedError(ConflictError):
    """The request_id belongs to another request."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str, first_method: str) -> None:
        super().__init__(
            f"request_id {request_id} was used before, for another {first_method} request. "
            "Use a new request_id for each new request, and the old one only to repeat the "
            "very same body.",
            request_id=request_id,
            first_method=first_method,
        )


class StrategyHaltedError(ForbiddenError):
    """The strategy takes no new orders."""

    reason = "STRATEGY_HALTED"

    def __init__(self, strategy_name: str, why: str) -> None:
        super().__init__(
            f"{strategy_name} is HALTED{f' ({why})' if why else ''} and takes no new orders. "
            f"POST /portfolio/{strategy_name}:resume lets it trade again.",
            strategy_name=strategy_name,
            halt_reason=why,
        )


class PortfolioHaltedError(ForbiddenError):
    """No strategy takes new orders."""

    reason = "STRATEGY_HALTED"

    def __init__(self, strategy_name: str) -> None:
        super().__init__(
            f"The whole portfolio is HALTED, {strategy_name} with it, and takes no new orders. "
            "GET /portfolio says why; POST /portfolio:resume lets it trade again.",
            strategy_name=strategy_name,
        )


class LimitExceededError(ForbiddenError):
    """A limit of the strategy's, or of the whole, refuses the order."""

    reason = "LIMIT_EXCEEDED"

    def __init__(self, owner: str, figures: tuple[str, str, str], what: str, instead: str) -> None:
        limit, allowed, value = figures
        super().__init__(
            f"{what}; {limit} of {owner or 'the whole portfolio'} is {allowed}. {instead}, or set "
            "another limit with POST /risk/limits.",
            strategy_name=owner,
            limit=limit,
            allowed=allowed,
            value=value,
        )


class InsufficientCashError(ForbiddenError):
    """The free cash does not pay for the order."""

    reason = "INSUFFICIENT_CASH"

    def __init__(self, action: str, needed: Decimal, free: Decimal) -> None:
        super().__init__(
            f"{action} needs {plain(needed)} USD; {plain(free)} USD is free. "
            "Sell first, or set more cash with POST /portfolio.",
            needed=plain(needed),
            free=plain(free),
        )


class NothingToSellError(ForbiddenError):
    """The strategy holds none of the symbol that is free to sell."""

    reason = "NOTHING_TO_SELL"

    def __init__(self, strategy_name: str, symbol: str, held: Decimal) -> None:
        open_orders = "open orders are selling all of it" if held else "it holds none"
        super().__init__(
            f"{strategy_name} has no {symbol} to sell: {open_orders}.",
            strategy_name=strategy_name,
            symbol=symbol,
            held=plain_quantity(held),
            free="0",
        )


class InsufficientSharesError(ForbiddenError):
    """The order sells more than is free."""

    reason = "INSUFFICIENT_SHARES"

    def __init__(self, symbol: str, wanted: Decimal, held: Decimal, free: Decimal) -> None:
        super().__init__(
            f"Selling {plain_quantity(wanted)} {symbol} is not possible: {plain_quantity(held)} "
            f"held, {plain_quantity(free)} of them free to sell. Sell at most that, or use "
            "sell_all.",
            symbol=symbol,
            wanted=plain_quantity(wanted),
            held=plain_quantity(held),
            free=plain_quantity(free),
        )


class IllegalStatusChangeError(ForbiddenError):
    """The order's status cannot change in this way."""

    reason = "ILLEGAL_STATUS_CHANGE"

    def __init__(self, order_id: str, current: str, wanted: str, legal: list[str]) -> None:
        to = f"it may become {', '.join(legal)}" if legal else "that is final"
        super().__init__(
            f"Order {order_id} is {current} and cannot become {wanted}: {to}.",
            order_id=order_id,
            status=current,
            wanted=wanted,
            legal=",".join(legal),
        )


class IllegalFillError(ForbiddenError):
    """The reported fill does not fit the order."""

    reason = "ILLEGAL_FILL"


class OrderIsLiveError(ForbiddenError):
    """The status of an order that is at the broker cannot be set by hand."""

    reason = "LIVE_ORDER"

    def __init__(self, order_id: str, current: str, wanted: str) -> None:
        super().__init__(
            f"Order {order_id} is LIVE and {current}: its fills and its end come from the broker, "
            f"so it cannot be set to {wanted} by hand. Ask for its cancellation with CANCELLED and "
            "no figures; only once it is UNKNOWN may EXECUTED or REJECTED be reported.",
            order_id=order_id,
            status=current,
            wanted=wanted,
        )


class SymbolFrozenError(ForbiddenError):
    """The broker's account and the strategies differ in the symbol, and nobody has said why."""

    reason = "SYMBOL_FROZEN"

    def __init__(self, row: SymbolRow) -> None:
        super().__init__(
            f"{row.symbol} is frozen: the broker's account has {plain_quantity(row.broker)}, the "
            f"strategies have {plain_quantity(row.strategies)}, and of the "
            f"{plain_quantity(row.unattributed)} UNATTRIBUTED {plain_quantity(row.acknowledged)} "
            "are acknowledged. Say whose they are with POST /positions:assign.",
            symbol=row.symbol,
            broker=plain_quantity(row.broker),
            strategies=plain_quantity(row.strategies),
            unattributed=plain_quantity(row.unattributed),
            acknowledged=plain_quantity(row.acknowledged),
        )


class WholeSharesOnlyError(ForbiddenError):
    """The broker's interface trades whole shares alone."""

    reason = "WHOLE_SHARES_ONLY"

    def __init__(self, symbol: str, quantity: Decimal) -> None:
        whole = plain_quantity(quantity // 1)
        super().__init__(
            f"{plain_quantity(quantity)} {symbol} is not a whole number of shares, and LIVE orders "
            f"must be. Trade {whole} with POST /orders.",
            symbol=symbol,
            quantity=plain_quantity(quantity),
            whole=whole,
        )


class OutsideSessionError(ForbiddenError):
    """The exchange is closed, and orders are not to wait for it."""

    reason = "OUTSIDE_SESSION"

    def __init__(self, symbol: str, opens: datetime) -> None:
        when = f"{opens:%Y-%m-%dT%H:%M:%SZ}"
        super().__init__(
            f"The exchange of {symbol} is closed; its next regular session opens {when}. Order "
            "then, or start the routers with OUTSIDE_SESSION=allow to let orders wait for it.",
            symbol=symbol,
            opens=when,
        )


class PlanOutdatedError(ForbiddenError):
    """The plan cannot be carried out any more."""

    reason = "PLAN_OUTDATED"

    def __init__(self, plan_id: str, why: str, **figures: str) -> None:
        super().__init__(
            f"Plan {plan_id} {why}. Nothing was moved. Make a new one with POST /allocation:plan, "
            "or carry out a new one with POST /allocation:rebalance.",
            plan_id=plan_id,
            **figures,
        )


class NotUnattributedError(ForbiddenError):
    """The shares to assign are not there to be assigned."""

    reason = "NOT_UNATTRIBUTED"

    def __init__(self, row: SymbolRow, wanted: Decimal) -> None:
        super().__init__(
            f"{plain_quantity(wanted)} {row.symbol} cannot be assigned: the broker's account has "
            f"{plain_quantity(row.broker)}, the strategies have {plain_quantity(row.strategies)}, "
            f"so {plain_quantity(row.unattributed)} are UNATTRIBUTED. Assign at most that, with "
            "the same sign; GET /reconciliation shows the figures.",
            symbol=row.symbol,
            wanted=plain_quantity(wanted),
            broker=plain_quantity(row.broker),
            strategies=plain_quantity(row.strategies),
            unattributed=plain_quantity(row.unattributed),
        )


class TooLargeError(ForbiddenError):
    """An amount that the ledger cannot hold to the last decimal."""

    reason = "AMOUNT_TOO_LARGE"

    def __init__(self, amount: Decimal) -> None:
        super().__init__(
            f"This would make an amount of {plain(amount)}; the largest that the ledger holds is "
            f"{plain(LARGEST)}. Trade less, or in parts.",
            amount=plain(amount),
            largest=plain(LARGEST),
        )


class ReservedError(ForbiddenError):
    """Open orders have reserved what the command would take away."""

    reason = "RESERVED_BY_OPEN_ORDERS"

    def __init__(self, what: str, wanted: Decimal, reserved: Decimal) -> None:
        super().__init__(
            f"Open orders have reserved {plain(reserved)} {what}; {plain(wanted)} is less than "
            "that. Cancel or finish those orders first.",
            wanted=plain(wanted),
            reserved=plain(reserved),
        )
