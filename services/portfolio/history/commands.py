"""The command that closes a session."""

from dataclasses import dataclass, replace
from datetime import date

from services.portfolio.batch import Batch
from services.portfolio.domain.book import Strategy
from services.portfolio.domain.valuation import ValuationKind
from services.portfolio.ports import Needs


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Close a strategy's session, since prices of a later one have come, and begin that one.

    To be run before these prices are kept: each book, PAPER and LIVE, is valued at the last prices
    of the session that ends. Sessions only grow and the strategy is locked, so whoever comes second
    finds nothing to do.
    """

    strategy_name: str
    session: date  # that begins
    given: bool  # whether the strategy named it; else it is the date in New York
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=True)

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        ends = strategy.session
        # Who names its sessions (a replay, say) is never taken to today by prices that name none.
        if strategy.session_given and not self.given:
            return
        begins = self.session
        if ends and begins > ends:
            for book in batch.books(strategy.name):
                batch.record_valuation(book, ValuationKind.CLOSE)
        elif ends and not self._may_go_back(batch, strategy):
            begins = ends
        begun = replace(
            strategy, session=begins, session_given=strategy.session_given or self.given
        )
        if begun != strategy:
            batch.record_strategy(replace(begun, update_time=batch.desk.now))

    def _may_go_back(self, batch: Batch, strategy: Strategy) -> bool:
        """Whether this is the beginning of a replay, and today was taken for its session.

        That was so if someone reported a price by hand before. Nothing was valued in a session yet.
        """
        is_first_named = self.given and not strategy.session_given
        lasts = (
            batch.last_valuation((book.strategy_name, book.mode))
            for book in batch.books(strategy.name)
        )
        return is_first_named and all(last is None or last.session is None for last in lasts)
