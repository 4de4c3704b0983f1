"""Named scenarios: what may go wrong with an order or a connection, and when each is in force."""

from dataclasses import dataclass
from enum import StrEnum


class Scenario(StrEnum):
    """What happens to an order, as the client sees it. The scripts say it step by step.

    Each is described in the control service's contract, simulation.proto.
    """

    IMMEDIATE_FILL = "IMMEDIATE_FILL"
    PARTIAL_FILLS = "PARTIAL_FILLS"
    HELD = "HELD"
    REJECT_201 = "REJECT_201"
    REJECT_201_THEN_INACTIVE = "REJECT_201_THEN_INACTIVE"
    REJECT_200 = "REJECT_200"
    REJECT_460 = "REJECT_460"
    REJECT_10052 = "REJECT_10052"
    REJECT_10311 = "REJECT_10311"
    READ_ONLY_321 = "READ_ONLY_321"
    SILENT = "SILENT"
    ORDER_LOST = "ORDER_LOST"
    ANSWER_LOST = "ANSWER_LOST"
    DROP_AFTER_PLACE = "DROP_AFTER_PLACE"
    DROP_AFTER_OPEN_ORDER = "DROP_AFTER_OPEN_ORDER"
    DROP_AFTER_SUBMITTED = "DROP_AFTER_SUBMITTED"
    DROP_IN_PARTIAL = "DROP_IN_PARTIAL"
    DROP_AFTER_EXECUTION = "DROP_AFTER_EXECUTION"
    DROP_AFTER_COMMISSION = "DROP_AFTER_COMMISSION"
    FILL_BEFORE_STATUS = "FILL_BEFORE_STATUS"
    NO_STATUS = "NO_STATUS"
    STATUS_TWICE = "STATUS_TWICE"
    STATUS_FILLED_BEFORE_FILL = "STATUS_FILLED_BEFORE_FILL"
    DUPLICATE_EXECUTION = "DUPLICATE_EXECUTION"
    CORRECTED_EXECUTION = "CORRECTED_EXECUTION"
    LATE_COMMISSION = "LATE_COMMISSION"
    FALSE_CANCEL_10349 = "FALSE_CANCEL_10349"
    FALSE_END_105 = "FALSE_END_105"
    WARNING_399 = "WARNING_399"
    WARNING_404 = "WARNING_404"
    WARNING_2109 = "WARNING_2109"
    CANCEL_RACE = "CANCEL_RACE"
    CANCELLED_WITH_FILLS = "CANCELLED_WITH_FILLS"
    CANCEL_REFUSED = "CANCEL_REFUSED"
    CONNECTIVITY_LOST_IN_FILL = "CONNECTIVITY_LOST_IN_FILL"
    DATA_LOST = "DATA_LOST"
    CLIENT_ID_TAKEN = "CLIENT_ID_TAKEN"
    ID_ROLLBACK = "ID_ROLLBACK"


OF_CONNECTIONS = frozenset({Scenario.CLIENT_ID_TAKEN, Scenario.ID_ROLLBACK})


@dataclass(slots=True)
class Rule:
    """A scenario in force for `symbol` (empty: all), for the next `times` (0: for ever).

    Where its script waits for release(), a `delay_s` above 0 waits so long instead. Its short
    pauses pass at once, unless there is a delay or `held`, which makes them wait for release().
    """

    scenario: Scenario
    symbol: str = ""
    times: int = 0
    delay_s: float = 0.0
    held: bool = False


class Rules:
    """The rules in force. Those for the next few orders come before those for ever."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._default = Rule(Scenario.IMMEDIATE_FILL, delay_s=delay_s)
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        """Puts a rule in force. For ever: in place of all that stand for the same symbol.

        IMMEDIATE_FILL for all and for ever takes every rule away, those of connections too.
        """
        if rule.scenario is Scenario.IMMEDIATE_FILL and not rule.symbol and not rule.times:
            self._rules.clear()
        elif not rule.times:
            self._rules = [one for one in self._rules if not _same_place(one, rule)]
        self._rules.append(rule)

    def for_order(self, symbol: str) -> Rule:
        """The rule for an order that has just arrived; it counts as used."""
        fitting = [
            rule
            for rule in self._rules
            if rule.symbol in ("", symbol) and rule.scenario not in OF_CONNECTIONS
        ]
        return self._used(fitting) or self._default

    def for_connection(self) -> Scenario | None:
        """The scenario for a client that has just connected; it counts as used."""
        rule = self._used([rule for rule in self._rules if rule.scenario in OF_CONNECTIONS])
        return rule.scenario if rule else None

    def _used(self, fitting: list[Rule]) -> Rule | None:
        """The first of those that end, else that of the symbol, else that of all."""
        if not fitting:
            return None
        rule = min(fitting, key=lambda one: (one.times == 0, one.symbol == ""))
        if rule.times == 1:
            self._rules.remove(rule)
        elif rule.times:
            rule.times -= 1
        return rule


def _same_place(one: Rule, other: Rule) -> bool:
    kinds = {rule.scenario in OF_CONNECTIONS for rule in (one, other)}
    return one.symbol == other.symbol and len(kinds) == 1
