"""Reading what a client sends: orders and contracts, field by field, at server version 176."""

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from services.gateway.market import Instrument, Market
from services.gateway.records import Side, Ticket

# Where placeOrder says what, for an order without legs, hedge, algorithm or delta-neutral part:
# after those the places would shift.
_ACTION, _QUANTITY, _TYPE, _TIF, _ACCOUNT, _REF, _TRANSMIT = 16, 17, 18, 21, 23, 26, 27
_OUTSIDE_RTH, _DELTA_NEUTRAL, _SCALE, _HEDGE, _UNDERLYING, _ALGO, _WHAT_IF = (
    33,
    65,
    73,
    77,
    82,
    83,
    85,
)

NO_CONTRACT = (200, "No security definition has been found for the request")


class RefusedError(Exception):
    """The gateway refuses a request; `code` and `text` are what it answers."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


def read_ticket(fields: Sequence[str], account: str) -> Ticket:
    """The content of a placeOrder. Where the account is not named, it is the only one.

    Raises:
        RefusedError: The message cannot be read as an order.
    """
    try:
        return Ticket(
            symbol=fields[3],
            side=Side(fields[_ACTION]),
            quantity=_quantity(fields[_QUANTITY]),
            order_ref=fields[_REF],
            order_type=fields[_TYPE],
            tif=fields[_TIF],
            account=fields[_ACCOUNT] or account,
            outside_rth=fields[_OUTSIDE_RTH] == "1",
        )
    except (ValueError, IndexError, InvalidOperation) as wrong:
        raise RefusedError(320, f"Error reading request. {wrong}") from wrong


def check_order(fields: Sequence[str], ticket: Ticket, account: str, market: Market) -> None:
    """What every gateway checks before it passes an order on.

    Raises:
        RefusedError: It would not.
    """
    if ticket.account != account:
        raise RefusedError(
            321, f"Error validating request.-'bN' : cause - Invalid account code '{ticket.account}'"
        )
    if instrument_of(fields[2:14], market).symbol != ticket.symbol:
        raise RefusedError(*NO_CONTRACT)
    if ticket.quantity <= 0:
        raise RefusedError(434, "The order size cannot be zero.")
    if ticket.quantity % 1:
        raise RefusedError(
            10243,
            "Fractional-sized order cannot be placed via API. Please use "
            "desktop version to place this order.",
        )
    if ticket.order_type != "MKT":
        raise RefusedError(387, "Unsupported order type for this exchange and security type.")
    unusual = [fields[at] for at in (_DELTA_NEUTRAL, _SCALE, _HEDGE, _ALGO)]
    asked = [fields[_TRANSMIT] != "1", fields[_UNDERLYING] == "1", fields[_WHAT_IF] == "1"]
    if any(unusual) or any(asked):
        raise RefusedError(
            321,
            "Error validating request.-'bN' : cause - The simulation takes "
            "plain market orders only: no what-if, algorithm, hedge or scale.",
        )


def instrument_of(fields: Sequence[str], market: Market) -> Instrument:
    """The instrument of a contract, whose fields begin with conId, symbol, secType.

    Raises:
        RefusedError: There is none such.
    """
    con_id, symbol, kind, currency = fields[0], fields[1], fields[2], fields[9]
    if not symbol:
        known = (Instrument(one) for one in market.symbols())
        symbol = next((one.symbol for one in known if str(one.con_id) == con_id), "")
    instrument = Instrument(symbol)
    fits = con_id in ("", "0", str(instrument.con_id)) and currency in ("", "USD")
    if kind not in ("", "STK") or not fits or not market.closes(symbol):
        raise RefusedError(*NO_CONTRACT)
    return instrument


def _quantity(text: str) -> Decimal:
    quantity = Decimal(text)
    if not quantity.is_finite():
        raise ValueError(f"{text} is no quantity")
    return quantity.normalize() + 0  # 10.0 is 10
