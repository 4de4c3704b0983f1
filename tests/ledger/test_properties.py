"""Whatever is thrown at a book: nothing is lost, nothing is made up, and the facts tell it all."""

from decimal import Decimal

from hypothesis import given

from services.portfolio.domain.money import LARGEST, ZERO
from services.portfolio.domain.order import Mode, Side, Status
from tests.ledger.amounts import PROPERTY, exactly
from tests.ledger.values import half_even
from tests.ledger.world import MOVES, World

Moves = list[tuple[object, ...]]


def after(moves: Moves, mode: Mode = Mode.PAPER) -> World:
    """The world after all of the moves; the ledger may refuse some."""
    world = World(mode)
    for move in moves:
        world.throw(move)
    return world


def test_the_moves_are_mostly_accepted() -> None:
    # Else the properties below would hold of nothing.
    tried, taken = [], []

    @PROPERTY
    @given(MOVES)
    def count(moves: Moves) -> None:
        world = World(Mode.PAPER)
        for move in moves:
            tried.append(move[0])
            if world.throw(move):
                taken.append(move[0])

    count()
    for word in ("place", "fill", "fill_all", "end", "cash", "position"):
        assert taken.count(word) > max(10, 0.2 * tried.count(word)), word


@PROPERTY
@given(MOVES)
def test_cash_and_shares_are_conserved_exactly(moves: Moves) -> None:
    world = World(Mode.PAPER)
    for move in moves:
        world.throw(move)
        assert exactly(world.book.cash) == world.tally_cash
        for symbol, shares in world.tally_shares.items():
            assert exactly(world.book.positions[symbol].quantity) == shares


@PROPERTY
@given(MOVES)
def test_paper_cash_always_covers_what_is_reserved(moves: Moves) -> None:
    world = World(Mode.PAPER)
    for move in moves:
        world.throw(move)
        assert world.book.cash >= world.book.reserved_cash >= 0


@PROPERTY
@given(MOVES)
def test_reservations_are_those_of_the_open_orders(moves: Moves) -> None:
    for mode in Mode:
        world = after(moves, mode)
        orders = world.orders.values()
        assert world.book.reserved_cash == sum((o.reserved_cash for o in orders), ZERO)
        assert all(o.reserved_cash == 0 for o in orders if not o.is_open or o.side is Side.SELL)
        for symbol, position in world.book.positions.items():
            selling = [
                o for o in orders if o.is_open and o.side is Side.SELL and o.symbol == symbol
            ]
            assert position.reserved_quantity == sum((o.open_quantity for o in selling), ZERO)


@PROPERTY
@given(MOVES)
def test_orders_are_never_filled_beyond_their_quantity(moves: Moves) -> None:
    for order in after(moves).orders.values():
        assert 0 <= order.filled_quantity <= order.quantity
        assert order.filled_quantity < order.quantity or order.status is Status.EXECUTED


@PROPERTY
@given(MOVES)
def test_ended_orders_never_change(moves: Moves) -> None:
    world = after(moves)
    ended = {i: order for i, order in world.orders.items() if not order.is_open}
    for number in range(len(world.orders)):
        world.throw(("fill_all", number, 1, Decimal(1), ZERO))
        for status in Status:
            world.throw(("end", number, status))
    assert {i: world.orders[i] for i in ended} == ended


@PROPERTY
@given(MOVES)
def test_replaying_the_facts_gives_the_book_again(moves: Moves) -> None:
    for mode in Mode:
        assert after(moves, mode).audit() == []


@PROPERTY
@given(MOVES)
def test_every_amount_has_at_most_8_decimals_and_28_digits(moves: Moves) -> None:
    world = after(moves)
    book = world.book
    amounts = [book.cash, book.reserved_cash]
    for p in book.positions.values():
        amounts += [p.quantity, p.reserved_quantity, p.cost, p.realized_pnl, p.last_price]
        assert p.average_cost == (
            half_even(exactly(p.cost) / exactly(p.quantity)) if p.quantity else 0
        )
    for o in world.orders.values():
        amounts += [o.filled_quantity, o.filled_value, o.commission, o.reserved_cash]
    for f in world.fills:
        amounts += [f.quantity, f.price, f.value, f.commission]
        assert f.price == half_even(exactly(f.value) / exactly(f.quantity))
    for amount in amounts:
        assert half_even(exactly(amount)) == amount
        assert abs(amount) <= LARGEST


@PROPERTY
@given(MOVES)
def test_every_move_raises_the_version_and_facts_carry_distinct_ones(moves: Moves) -> None:
    world = World(Mode.PAPER)
    version = world.book.version
    for move in moves:
        before = world.book
        world.throw(move)
        assert world.book.version > version or world.book == before
        version = world.book.version
    facts = [f.book_version for f in world.fills] + [a.book_version for a in world.adjustments]
    assert len(set(facts)) == len(facts)
    assert all(1 <= v <= version for v in facts)
