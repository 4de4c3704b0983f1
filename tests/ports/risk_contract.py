"""What every RiskReads promises. Subclass it where pytest finds it; `store` is the one to test."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal

from services.portfolio.domain.book import State
from services.portfolio.domain.capital import RESERVE
from services.portfolio.domain.order import Mode
from services.portfolio.domain.risk import (
    Heights,
    Limits,
    Part,
    RiskEvent,
    RiskEventKind,
    StrategyLimits,
    Whole,
)
from services.portfolio.domain.valuation import Valuation, ValuationKind
from services.portfolio.ports import Changes, PriceMark
from services.portfolio.risk.ports import WholeHeights
from tests.ledger.values import d, new_id
from tests.ports.makers import LIVE, PAPER, at, opened, position, save, strategy
from tests.ports.stores import Store

SOME = Limits(max_drawdown=d("0.2"), max_orders_per_minute=5)


def valued(
    name: str,
    number: int,
    equity: int,
    growth: str,
    *,
    day: int | None = None,
    flow: int = 0,
    mode: Mode = PAPER,
) -> Valuation:
    """A close of that day of May, or without one a flow; `number` seconds after the beginning."""
    kind = ValuationKind.FLOW if day is None else ValuationKind.CLOSE
    session = None if day is None else date(2024, 5, day)
    return Valuation(
        name, mode, number, session, kind, 1, d(equity), d(0), d(flow), d(growth), at(number)
    )


def event(name: str, kind: RiskEventKind, seconds: float = 0) -> RiskEvent:
    """An event; each has a greater id than the one before."""
    return RiskEvent(new_id(), name, kind, "why", "who", at(seconds))


def limited(name: str, limits: Limits) -> Changes:
    """A strategy with limits."""
    return Changes(strategies={name: replace(strategy(name), limits=limits)})


class RiskContract:
    """Reads of risk control on any store."""

    async def test_there_is_nothing_to_see_in_the_beginning(self, store: Store) -> None:
        assert await store.risk.standings() == (Whole(), [])
        assert await store.risk.heights([("A", PAPER)]) == {}
        nothing = WholeHeights(Heights(d(1), d(1)), {})
        assert await store.risk.heights_of_whole() == nothing
        assert await store.risk.limits() == [StrategyLimits("", Limits())]
        assert await store.risk.events(None, None, 9) == []

    async def test_only_strategies_that_are_to_be_looked_at_stand_there(self, store: Store) -> None:
        names = ["None", "Rate", "Lease", "Loss", "Fall", "Silent", "Selling"]
        await save(store.ledger, *(opened(name) for name in [*names, RESERVE]))
        await save(
            store.ledger,
            limited("Rate", Limits(max_orders_per_minute=1, max_price_jump=d(1))),
            limited("Lease", Limits(lease_s=d("1.5"))),
            limited("Loss", Limits(max_daily_loss=d("0.1"))),
            limited("Fall", Limits(max_drawdown=d("0.1"))),
            Changes(strategies={"Silent": replace(strategy("Silent"), silent=True)}),
            Changes(strategies={"Selling": replace(strategy("Selling"), flattening=True)}),
        )
        whole, found = await store.risk.standings()
        assert whole == Whole()
        assert [each.strategy_name for each in found] == sorted(set(names) - {"None", "Rate"})
        limits = Whole(limits=Limits(max_daily_loss=d("0.1")), update_time=at(1))
        await save(store.ledger, Changes(whole=limits))
        whole, found = await store.risk.standings()
        assert whole == limits
        assert [each.strategy_name for each in found] == sorted(names)

    async def test_a_standing_is_of_the_mode_in_force_and_at_market(self, store: Store) -> None:
        held = position("SPXL", 2, 7, last_price=5)
        last = valued("A", 2, 20, "1.5", mode=LIVE)
        await save(store.ledger, opened("A", 900), opened("A", 100, LIVE, held))
        await save(
            store.ledger,
            Changes(
                strategies={
                    "A": replace(
                        strategy("A", LIVE, State.HALTED), limits=SOME, silent=True, flattening=True
                    )
                },
                valuations=[valued("A", 1, 10, "1", mode=LIVE), last, valued("A", 3, 9, "9")],
            ),
        )
        _, (standing,) = await store.risk.standings()
        assert (standing.key, standing.limits) == (("A", LIVE), SOME)
        assert (standing.halted, standing.silent, standing.flattening) == (True, True, True)
        assert (standing.equity, standing.last, standing.seen_time) == (110, last, None)
        await store.reads.mark([PriceMark("A", "SPXL", d(7), at(50))])
        await store.reads.mark([PriceMark("A", "AVL", d(1), at(60))])
        _, (standing,) = await store.risk.standings()
        assert (standing.equity, standing.seen_time) == (114, at(60))
        assert standing.growth == d("8.55")  # 1.5 x 114 / 20

    async def test_who_is_halted_with_all_is_halted(self, store: Store) -> None:
        await save(store.ledger, opened("A"))
        both = replace(strategy("A"), limits=SOME, portfolio_halted=True)
        await save(store.ledger, Changes(strategies={"A": both}))
        _, (standing,) = await store.risk.standings()
        assert (standing.halted, standing.last, standing.number) == (True, None, 0)
        assert standing.growth == 1

    async def test_heights_are_the_highest_growth_and_that_of_the_last_close(
        self, store: Store
    ) -> None:
        await save(store.ledger, opened("A"), opened("B"), opened("C"), opened("D"))
        await save(
            store.ledger,
            Changes(
                valuations=[
                    valued("A", 1, 0, "1", flow=100),
                    valued("A", 2, 150, "1.5", day=1),
                    valued("A", 3, 160, "1.6", flow=-10),
                    valued("A", 4, 140, "1.4", day=2),
                    valued("A", 5, 130, "1.3", flow=10),
                    valued("B", 1, 0, "1", flow=100),
                    valued("C", 1, 0, "1", flow=100),
                    valued("C", 2, 90, "0.9", day=1),
                ]
            ),
        )
        found = await store.risk.heights([(name, PAPER) for name in "ABCD"] + [("A", LIVE)])
        assert found == {
            ("A", PAPER): (5, Heights(d("1.6"), d("1.4"))),
            ("B", PAPER): (1, Heights(d(1), d(1))),
            ("C", PAPER): (2, Heights(d(1), d("0.9"))),  # it began with 1
        }

    async def test_heights_begin_with_the_last_resume_of_the_strategy(self, store: Store) -> None:
        await save(store.ledger, opened("A"), opened("B"))
        rows = [
            valued("A", 1, 200, "2", day=1),
            valued("A", 2, 80, "0.8"),
            valued("A", 3, 90, "0.9"),
        ]
        told = [
            event("A", RiskEventKind.RESUME, 1.5),
            event("A", RiskEventKind.RESUME, 2),
            event("A", RiskEventKind.HALT, 9),
            event("B", RiskEventKind.RESUME, 9),
            event("", RiskEventKind.RESUME, 9),
        ]
        await save(store.ledger, Changes(valuations=rows, risk_events=told))
        key = ("A", PAPER)
        assert await store.risk.heights([key]) == {key: (3, Heights(d("0.9"), d("0.8")))}
        closed = valued("A", 4, 70, "0.7", day=2)
        await save(store.ledger, Changes(valuations=[closed]))
        assert await store.risk.heights([key]) == {key: (4, Heights(d("0.9"), d("0.7")))}

    async def test_the_whole_grows_by_what_each_gained_on_what_it_had(self, store: Store) -> None:
        await save(store.ledger, *(opened(name) for name in ["A", "B", "C", RESERVE]))
        await save(
            store.ledger,
            Changes(
                valuations=[
                    valued("A", 1, 0, "1", flow=100),
                    valued("A", 2, 110, "1.1", day=1),
                    valued("A", 3, 121, "1.21", flow=79),  # 110 and 79 to gain by
                    valued("A", 4, 100, "0.605", day=2),
                    valued("A", 5, 100, "0.605", flow=-40),
                    valued("B", 1, 0, "1", flow=300),
                    valued("B", 2, 300, "1", day=2),
                    valued("C", 1, 0, "1", flow=500),
                    valued(RESERVE, 1, 10, "1", day=1),
                    valued(RESERVE, 2, 90, "9", day=2),
                ]
            ),
        )
        found = await store.risk.heights_of_whole()
        # Session 1: A alone, 100 to 110. Session 2: A halves (0.55) on 189, B's 300 stand still.
        step = 1 + d(189) * (d("0.605") / d("1.1") - 1) / d(489)
        assert found.heights.high == d("1.1")
        assert abs(found.heights.close - d("1.1") * step) < d("1e-15")
        assert found.parts == {
            ("A", PAPER): Part(5, d(60), d("0.605")),
            ("B", PAPER): Part(2, d(300), d(1)),
            ("C", PAPER): Part(1, d(500), d(1)),
        }

    async def test_who_closes_no_session_is_carried_on_with_what_it_had(self, store: Store) -> None:
        await save(store.ledger, opened("A"), opened("B"))
        await save(
            store.ledger,
            Changes(
                valuations=[
                    valued("A", 1, 0, "1", flow=100),
                    valued("A", 2, 100, "1", day=1),
                    valued("A", 3, 50, "0.5", day=2),
                    valued("A", 4, 100, "1", day=3),
                    valued("B", 1, 0, "1", flow=100),
                    valued("B", 2, 100, "1", day=1),
                    valued("B", 3, 200, "2", day=3),
                ]
            ),
        )
        found = (await store.risk.heights_of_whole()).heights
        # 200 -> 150 -> 300: its base in session 2 and 3 is B's close of session 1.
        assert (found.close, found.high) == (d("1.5"), d("1.5"))

    async def test_the_whole_begins_with_its_last_resume(self, store: Store) -> None:
        await save(store.ledger, opened("A"), opened("B"))
        rows = [
            valued("A", 1, 100, "3", day=1),
            valued("A", 2, 50, "1.5"),
            valued("A", 3, 25, "0.75", day=2),
        ]
        told = [event("", RiskEventKind.RESUME, 2), event("A", RiskEventKind.RESUME, 9)]
        await save(store.ledger, Changes(valuations=rows, risk_events=told))
        found = await store.risk.heights_of_whole()
        assert found == WholeHeights(
            Heights(d(1), d("0.5")), {("A", PAPER): Part(3, d(25), d("0.75"))}
        )

    async def test_books_that_had_nothing_gain_nothing(self, store: Store) -> None:
        await save(store.ledger, opened("A"))
        rows: Sequence[Valuation] = [
            valued("A", 1, 0, "1", flow=0),
            valued("A", 2, 0, "1", day=1),
            valued("A", 3, -5, "0", day=2),
            valued("A", 4, -5, "0", day=3),
        ]
        await save(store.ledger, Changes(valuations=list(rows)))
        found = await store.risk.heights_of_whole()
        assert found.heights == Heights(Decimal(1), Decimal(1))
        assert found.parts["A", PAPER].base == 0

    async def test_limits_are_of_the_whole_and_of_every_strategy(self, store: Store) -> None:
        await save(store.ledger, opened("B"), opened("A"), opened(RESERVE), limited("B", SOME))
        own = [StrategyLimits("A", Limits()), StrategyLimits("B", SOME)]
        assert await store.risk.limits() == [StrategyLimits("", Limits()), *own]
        whole = Limits(max_price_age_s=d("1.5"))
        await save(store.ledger, Changes(whole=Whole(limits=whole, update_time=at(1))))
        assert await store.risk.limits() == [StrategyLimits("", whole), *own]

    async def test_events_come_newest_first_in_pages(self, store: Store) -> None:
        kinds = list(RiskEventKind)
        told = [event("A" if i % 2 else "", kind, i) for i, kind in enumerate(kinds)]
        await save(store.ledger, Changes(risk_events=told))
        assert await store.risk.events(None, None, 99) == told[::-1]
        assert await store.risk.events("A", None, 99) == told[1::2][::-1]
        assert await store.risk.events("B", None, 99) == []
        assert await store.risk.events(None, told[4].event_id, 2) == [told[3], told[2]]
        assert await store.risk.events("A", told[3].event_id, 9) == [told[1]]
