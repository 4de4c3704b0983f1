"""The scripts: what each scenario does with an order, move by move.

A script is a generator. It yields HOLD where it waits for release() and PAUSE where it may be made
to wait; see scenario.Rule. The order itself may end meanwhile, by a cancel or a fill by hand: a
move that is then not possible ends the script.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum, auto
from typing import Final

from services.gateway.play import Play
from services.gateway.records import Execution, Status
from services.gateway.scenario import Scenario


class Wait(Enum):
    """Where a script stops."""

    HOLD = auto()
    PAUSE = auto()


Script = Iterator[Wait]
HOLD: Final = Wait.HOLD
PAUSE: Final = Wait.PAUSE

NOTICES = {
    1100: "Connectivity between IB and Trader Workstation has been lost.",
    1101: "Connectivity between IB and Trader Workstation has been restored - data lost.",
    1102: "Connectivity between IB and Trader Workstation has been restored - data maintained.",
    2103: "Market data farm connection is broken:usfarm",
    2104: "Market data farm connection is OK:usfarm",
    2105: "HMDS data farm connection is broken:ushmds",
    2106: "HMDS data farm connection is OK:ushmds",
    2110: "Connectivity between Trader Workstation and server is broken. It will be restored "
    "automatically.",
    2158: "Sec-def data farm connection is OK:secdefnj",
    10197: "No market data during competing live session",
}
REFUSALS = {
    Scenario.REJECT_200: (200, "No security definition has been found for the request"),
    Scenario.REJECT_460: (460, "No trading permissions for this product"),
    Scenario.REJECT_10052: (10052, "Invalid time in force:DAY"),
    Scenario.REJECT_10311: (
        10311,
        "This order will be directly routed to the exchange. Direct routed orders may result in "
        "higher trade fees. Restriction is specified in Precautionary Settings.",
    ),
    Scenario.READ_ONLY_321: (
        321,
        "Error validating request.-'bN' : cause - The API interface is currently in Read-Only "
        "mode.",
    ),
}
MARGIN = "Order rejected - reason:The available funds are not enough for this order."
WARNINGS = {
    Scenario.WARNING_399: (
        399,
        "Order Message:\nWarning: your order will not be placed at the exchange until the next "
        "open.",
    ),
    Scenario.WARNING_404: (404, "Order held while securities are located."),
    Scenario.WARNING_2109: (
        2109,
        "Order Event Warning: Attribute 'Outside Regular Trading Hours' is ignored.",
    ),
}


def script_of(play: Play) -> Script:
    """The script of the scenario that the order was given."""
    return SCRIPTS[play.rule.scenario](play)


def resumed(play: Play) -> Script:
    """An order that the broker already had when it was started again."""
    if play.order.held:
        yield HOLD
    play.fill_rest()


def _immediate_fill(play: Play) -> Script:
    play.accept()
    yield PAUSE
    play.fill_rest()


def _partial_fills(play: Play) -> Script:
    play.accept()
    third = max(play.order.open // 3, Decimal(1))
    play.fill(third)
    yield HOLD
    play.fill(min(third, play.order.open))
    yield HOLD
    play.fill_rest()


def _held(play: Play) -> Script:
    play.accept()
    yield HOLD
    play.fill_rest()


def _reject_201(play: Play) -> Script:
    play.take(Status.PRE_SUBMITTED)
    play.end(Status.INACTIVE, MARGIN)
    play.show_error(201, MARGIN)
    yield from ()


def _reject_201_then_inactive(play: Play) -> Script:
    play.take(Status.PRE_SUBMITTED)
    play.show_order()
    play.end(Status.INACTIVE, MARGIN)
    play.show_error(201, MARGIN)
    play.show_order()
    play.show_status()
    yield from ()


def _refused(play: Play) -> Script:
    play.refuse(*REFUSALS[play.rule.scenario])
    yield from ()


def _silent(play: Play) -> Script:
    play.take()
    yield HOLD
    play.report(play.trade(play.order.open), quietly=True)


def _order_lost(play: Play) -> Script:
    play.lose()
    play.drop()
    yield from ()


def _answer_lost(play: Play) -> Script:
    play.take()
    play.drop()
    yield PAUSE
    play.fill_rest()


def _drop_after_place(play: Play) -> Script:
    play.take()
    play.drop()
    yield HOLD
    play.fill_rest()


def _drop_after_open_order(play: Play) -> Script:
    play.take()
    play.show_order()
    play.drop()
    yield PAUSE
    play.fill_rest()


def _drop_after_submitted(play: Play) -> Script:
    play.accept()
    play.drop()
    yield PAUSE
    play.fill_rest()


def _drop_in_partial(play: Play) -> Script:
    play.accept()
    play.fill(max(play.order.open // 3, Decimal(1)))
    play.drop()
    yield PAUSE
    play.fill_rest()


def _drop_after_execution(play: Play) -> Script:
    play.accept()
    yield PAUSE
    made = play.trade(play.order.open)
    play.show_execution(made)
    play.drop()
    play.report(made)


def _drop_after_commission(play: Play) -> Script:
    play.accept()
    yield PAUSE
    play.fill_rest()
    play.drop()


def _fill_before_status(play: Play) -> Script:
    play.take()
    yield PAUSE
    made = play.trade(play.order.open)
    play.show_execution(made)
    play.show_order(Status.SUBMITTED)
    play.show_status(Status.SUBMITTED, Decimal(0))
    _tell_filled(play, made)


def _no_status(play: Play) -> Script:
    play.take()
    yield PAUSE
    made = play.trade(play.order.open)
    play.show_execution(made)
    play.report(made)


def _status_twice(play: Play) -> Script:
    play.accept()
    play.show_status()
    yield PAUSE
    made = play.trade(play.order.open)
    play.show_execution(made)
    play.show_status()
    _tell_filled(play, made)


def _status_filled_before_fill(play: Play) -> Script:
    play.accept()
    yield PAUSE
    made = play.trade(play.order.open)
    play.show_order()
    play.show_status()
    yield PAUSE
    play.show_execution(made)
    play.report(made)


def _duplicate_execution(play: Play) -> Script:
    play.accept()
    yield PAUSE
    made = play.trade(play.order.open)
    play.show_execution(made)
    play.show_execution(made)
    _tell_filled(play, made)
    play.report(made)


def _corrected_execution(play: Play) -> Script:
    play.accept()
    yield PAUSE
    made = play.fill_rest()
    yield PAUSE
    if made:
        corrected = play.correct(made, Decimal("0.05"))
        play.show_execution(corrected)
        play.report(corrected)


def _late_commission(play: Play) -> Script:
    play.accept()
    yield PAUSE
    made = play.trade(play.order.open)
    play.show_execution(made)
    play.show_order()
    play.show_status()
    yield HOLD
    play.report(made)


def _false_cancel_10349(play: Play) -> Script:
    play.take(Status.PRE_SUBMITTED)
    play.show_error(10349, "Order TIF was set to DAY based on order preset.")
    play.show_status(Status.CANCELLED)
    yield PAUSE
    play.fill_rest()


def _false_end_105(play: Play) -> Script:
    play.accept()
    play.show_error(105, "Order being modified does not match original order")
    yield HOLD
    play.fill_rest()


def _warned(play: Play) -> Script:
    play.accept(Status.PRE_SUBMITTED)
    play.show_error(*WARNINGS[play.rule.scenario])
    yield HOLD
    play.fill_rest()


def _cancelled_with_fills(play: Play) -> Script:
    play.accept()
    play.fill(play.order.open * 3 // 5)
    yield PAUSE
    play.end(Status.CANCELLED, "Cancelled by the exchange")
    play.show_order()
    play.show_status()
    play.show_error(202, "Order Canceled - reason:Cancelled by the exchange")


def _connectivity_lost(play: Play) -> Script:
    """The second half is filled while nobody can be told, and is told only to who asks."""
    play.accept()
    play.fill(max(play.order.open // 2, Decimal(1)))
    play.notice(1100, NOTICES[1100])
    if not play.is_over:
        play.report(play.trade(play.order.open, quietly=True), quietly=True)
    yield HOLD
    restored = 1101 if play.rule.scenario is Scenario.DATA_LOST else 1102
    play.notice(restored, NOTICES[restored])
    play.show_account()


def _tell_filled(play: Play, made: Execution) -> None:
    play.show_order()
    play.show_status()
    play.report(made)


SCRIPTS: dict[Scenario, Callable[[Play], Script]] = {
    Scenario.IMMEDIATE_FILL: _immediate_fill,
    Scenario.PARTIAL_FILLS: _partial_fills,
    Scenario.HELD: _held,
    Scenario.REJECT_201: _reject_201,
    Scenario.REJECT_201_THEN_INACTIVE: _reject_201_then_inactive,
    **dict.fromkeys(REFUSALS, _refused),
    Scenario.SILENT: _silent,
    Scenario.ORDER_LOST: _order_lost,
    Scenario.ANSWER_LOST: _answer_lost,
    Scenario.DROP_AFTER_PLACE: _drop_after_place,
    Scenario.DROP_AFTER_OPEN_ORDER: _drop_after_open_order,
    Scenario.DROP_AFTER_SUBMITTED: _drop_after_submitted,
    Scenario.DROP_IN_PARTIAL: _drop_in_partial,
    Scenario.DROP_AFTER_EXECUTION: _drop_after_execution,
    Scenario.DROP_AFTER_COMMISSION: _drop_after_commission,
    Scenario.FILL_BEFORE_STATUS: _fill_before_status,
    Scenario.NO_STATUS: _no_status,
    Scenario.STATUS_TWICE: _status_twice,
    Scenario.STATUS_FILLED_BEFORE_FILL: _status_filled_before_fill,
    Scenario.DUPLICATE_EXECUTION: _duplicate_execution,
    Scenario.CORRECTED_EXECUTION: _corrected_execution,
    Scenario.LATE_COMMISSION: _late_commission,
    Scenario.FALSE_CANCEL_10349: _false_cancel_10349,
    Scenario.FALSE_END_105: _false_end_105,
    **dict.fromkeys(WARNINGS, _warned),
    Scenario.CANCEL_RACE: _held,
    Scenario.CANCELLED_WITH_FILLS: _cancelled_with_fills,
    Scenario.CANCEL_REFUSED: _held,
    Scenario.CONNECTIVITY_LOST_IN_FILL: _connectivity_lost,
    Scenario.DATA_LOST: _connectivity_lost,
}
