"""The command of a review: what the rule says of a strategy, and what follows."""

from dataclasses import dataclass, replace
from uuid import UUID

from services.portfolio.batch import Batch
from services.portfolio.domain.promotion import Verdict
from services.portfolio.ports import Needs
from services.portfolio.promotion import modes


@dataclass(frozen=True, slots=True)
class Decide:
    """Keep a verdict, and put the mode that follows from it in force once the strategy is flat.

    `after` is the last decision that the verdict knows of. When another has come since, from
    another replica say, that one stands, and nothing is done.
    """

    strategy_name: str
    verdict: Verdict
    after: UUID | None
    request_id: str = ""

    def needs(self) -> Needs:  # noqa: D102 - as in Command
        return Needs(strategies=(self.strategy_name,), valued=True, decided=True)

    def run(self, batch: Batch) -> None:  # noqa: D102 - as in Command
        strategy = batch.strategy(self.strategy_name)
        last = batch.last_decision(strategy.name)
        if self.after != (last.decision_id if last else None):
            return
        if strategy.promoted is not self.verdict.promoted:
            strategy = replace(strategy, promoted=self.verdict.promoted, update_time=batch.desk.now)
        modes.settled(batch, strategy, self.verdict).record(batch)
