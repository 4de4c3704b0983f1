"""The tables, with what PostgreSQL itself enforces.

strategies, books, positions and orders hold the present state; fills, cash_entries,
position_adjustments and order_events are append-only facts that it follows from. `requests` keeps
the answers given to request_ids, `marks` the prices that strategies last saw.

For LIVE: broker_orders are the intents, broker_ids the marks below which no order id is given out
again, broker_weather and broker_account (one row each) with broker_positions what the elected
sender last said and saw, and acknowledgements what operators said of it.

Judgement: valuations are what books were worth at each close and before each flow; risk_events and
decisions say what was done and why; portfolio_state and allocation_policy (one row each) hold what
is of the whole; plans say who gets how much.

mutations say of each change who asked for it.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_ix",
        "uq": "%(table_name)s_%(column_0_N_name)s_uq",
        "ck": "%(table_name)s_%(constraint_name)s_ck",
        "fk": "%(table_name)s_%(column_0_N_name)s_fk",
        "pk": "%(table_name)s_pk",
    }
)

AMOUNT = Numeric(28, 8)  # USD, USD a share, or shares
GROWTH = Numeric(38, 18)  # of 1 USD
TIME = DateTime(timezone=True)


def _book_columns() -> tuple[Column[str], Column[str]]:
    return Column("strategy_name", Text, nullable=False), Column("mode", Text, nullable=False)


def _book_reference() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["strategy_name", "mode"], ["books.strategy_name", "books.mode"])


def _one_row() -> tuple[Column[bool], CheckConstraint]:
    """The key of a table that holds one row."""
    return Column("one", Boolean, primary_key=True), CheckConstraint("one", name="one_row")


strategies = Table(
    "strategies",
    metadata,
    Column("strategy_name", Text, primary_key=True),
    Column("requested_mode", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("halt_reason", Text, nullable=False),
    Column("update_time", TIME, nullable=False),
    # The defaults are for replicas of the version before, which know nothing of these.
    Column("session", Date),
    Column("session_given", Boolean, nullable=False, server_default="false"),
    Column("portfolio_halted", Boolean, nullable=False, server_default="false"),
    Column("limits", JSONB),
    Column("promoted", Boolean, nullable=False, server_default="false"),
    Column("live_since", TIME),
    Column("silent", Boolean, nullable=False, server_default="false"),
    Column("flattening", Boolean, nullable=False, server_default="false"),
    CheckConstraint("requested_mode IN ('AUTO', 'PAPER', 'LIVE')", name="requested_mode"),
    CheckConstraint("mode IN ('PAPER', 'LIVE')", name="mode"),
    CheckConstraint("state IN ('ACTIVE', 'HALTED')", name="state"),
)

books = Table(
    "books",
    metadata,
    Column("strategy_name", Text, ForeignKey("strategies.strategy_name"), nullable=False),
    Column("mode", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("cash", AMOUNT, nullable=False),
    Column("reserved_cash", AMOUNT, nullable=False),
    Column("update_time", TIME, nullable=False),
    Column("due", AMOUNT, nullable=False, server_default="0"),
    PrimaryKeyConstraint("strategy_name", "mode"),
    CheckConstraint("mode IN ('PAPER', 'LIVE')", name="mode"),
    CheckConstraint("reserved_cash >= 0", name="reserved_cash_not_negative"),
    # A LIVE fill above the price that was reserved is booked truthfully, even below zero.
    CheckConstraint("mode = 'LIVE' OR cash >= reserved_cash", name="paper_cash_covers_reserved"),
)

positions = Table(
    "positions",
    metadata,
    Column("position_id", Uuid, primary_key=True),
    *_book_columns(),
    Column("symbol", Text, nullable=False),
    Column("quantity", AMOUNT, nullable=False),
    Column("reserved_quantity", AMOUNT, nullable=False),
    Column("cost", AMOUNT, nullable=False),
    Column("realized_pnl", AMOUNT, nullable=False),
    Column("last_price", AMOUNT, nullable=False),
    Column("update_time", TIME, nullable=False),
    _book_reference(),
    UniqueConstraint("strategy_name", "mode", "symbol"),
    CheckConstraint(
        "reserved_quantity >= 0 AND quantity >= reserved_quantity", name="quantity_covers_reserved"
    ),
    CheckConstraint("cost >= 0", name="cost_not_negative"),
)

orders = Table(
    "orders",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    *_book_columns(),
    Column("symbol", Text, nullable=False),
    Column("side", Text, nullable=False),
    Column("quantity", AMOUNT, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("status", Text, nullable=False),
    Column("filled_quantity", AMOUNT, nullable=False),
    Column("filled_value", AMOUNT, nullable=False),
    Column("commission", AMOUNT, nullable=False),
    Column("reserved_cash", AMOUNT, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    Column("twin_of", Uuid),
    _book_reference(),
    CheckConstraint("side IN ('BUY', 'SELL')", name="side"),
    CheckConstraint(
        "status IN ('PENDING', 'EXECUTED', 'CANCELLED', 'REJECTED', 'UNKNOWN')", name="status"
    ),
    CheckConstraint("quantity > 0 AND price > 0", name="quantity_and_price_positive"),
    CheckConstraint(
        "filled_quantity >= 0 AND filled_quantity <= quantity", name="filled_quantity_within"
    ),
    CheckConstraint("reserved_cash >= 0", name="reserved_cash_not_negative"),
    # Order ids are UUIDv7, so these indexes give each list newest first.
    Index(None, "strategy_name", "order_id"),
    Index(None, "symbol", "order_id"),
)
# Nearly every order is EXECUTED: that filter reads the newest orders and keeps most of them. The
# other statuses are rare, so they have an index of their own, which an EXECUTED order never enters.
Index(
    "orders_status_not_executed_ix",
    orders.c.status,
    orders.c.order_id,
    postgresql_where=orders.c.status != "EXECUTED",
)

fills = Table(
    "fills",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.order_id"), nullable=False),
    Column("execution_id", Text, nullable=False),
    Column("book_version", BigInteger, nullable=False),
    Column("quantity", AMOUNT, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("value", AMOUNT, nullable=False),
    Column("commission", AMOUNT, nullable=False),
    Column("time", TIME, nullable=False),
    # The default is for replicas of the version before, which know of no other kind.
    Column("kind", Text, nullable=False, server_default="FILL"),
    PrimaryKeyConstraint("order_id", "execution_id"),
    CheckConstraint("kind IN ('FILL', 'CORRECTION', 'COMMISSION')", name="kind"),
    CheckConstraint(
        "kind <> 'FILL' OR (quantity > 0 AND value > 0)", name="quantity_and_value_positive"
    ),
    CheckConstraint(
        "kind <> 'COMMISSION' OR (quantity = 0 AND value = 0)", name="commission_moves_no_shares"
    ),
)

cash_entries = Table(
    "cash_entries",
    metadata,
    *_book_columns(),
    Column("book_version", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", TIME, nullable=False),
    _book_reference(),
    # One entry of a kind for each version: two writers can never book the same move.
    PrimaryKeyConstraint("strategy_name", "mode", "book_version", "kind"),
    CheckConstraint(
        "kind IN ('DEPOSIT', 'ADJUSTMENT', 'TRADE', 'COMMISSION', 'TRANSFER')", name="kind"
    ),
)

position_adjustments = Table(
    "position_adjustments",
    metadata,
    *_book_columns(),
    Column("book_version", BigInteger, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("quantity_delta", AMOUNT, nullable=False),
    Column("cost_delta", AMOUNT, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", TIME, nullable=False),
    _book_reference(),
    PrimaryKeyConstraint("strategy_name", "mode", "book_version"),
)

order_events = Table(
    "order_events",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.order_id"), nullable=False),
    Column("book_version", BigInteger, nullable=False),
    Column("from_status", Text, nullable=False),
    Column("to_status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("time", TIME, nullable=False),
    PrimaryKeyConstraint("order_id", "book_version"),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("method", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("answer", JSONB, nullable=False),
    Column("time", TIME, nullable=False),
)

marks = Table(
    "marks",
    metadata,
    Column("strategy_name", Text, ForeignKey("strategies.strategy_name"), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("time", TIME, nullable=False),
    PrimaryKeyConstraint("strategy_name", "symbol"),
    CheckConstraint("price > 0", name="price_positive"),
)

broker_orders = Table(
    "broker_orders",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.order_id"), primary_key=True),
    Column("client_id", BigInteger),
    Column("broker_order_id", BigInteger),
    Column("sent_time", TIME),
    Column("cancel_requested", Boolean, nullable=False, server_default="false"),
    # No order id is ever given to two orders, whatever the mark says.
    UniqueConstraint("client_id", "broker_order_id"),
    CheckConstraint(
        "num_nulls(client_id, broker_order_id, sent_time) IN (0, 3)", name="sent_or_not"
    ),
)
# The sender asks for these on every turn; what was sent leaves the index.
Index(
    "broker_orders_unsent_ix",
    broker_orders.c.order_id,
    postgresql_where=broker_orders.c.broker_order_id.is_(None),
)

broker_ids = Table(
    "broker_ids",
    metadata,
    Column("client_id", BigInteger, primary_key=True, autoincrement=False),
    Column("last_id", BigInteger, nullable=False),
    CheckConstraint("last_id > 0", name="last_id_positive"),
)

broker_weather = Table(
    "broker_weather",
    metadata,
    *_one_row(),
    Column("state", Text, nullable=False),
    Column("since", TIME, nullable=False),
    Column("detail", Text, nullable=False),
    Column("market_data", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("heartbeat", TIME, nullable=False),
)

broker_account = Table(
    "broker_account",
    metadata,
    *_one_row(),
    Column("time", TIME, nullable=False),
    Column("cash", AMOUNT),
    Column("strategies_cash", AMOUNT, nullable=False),
    Column("net_liquidation", AMOUNT),
)

broker_positions = Table(
    "broker_positions",
    metadata,
    Column("symbol", Text, primary_key=True),
    Column("quantity", AMOUNT, nullable=False),
    # The sum over all LIVE books at the comparison: a fill since then is no difference.
    Column("strategies_quantity", AMOUNT, nullable=False),
)

acknowledgements = Table(
    "acknowledgements",
    metadata,
    Column("symbol", Text, nullable=False),
    # By number, not by time: two replicas' clocks differ.
    Column("acknowledgement_id", BigInteger, Identity(always=True), nullable=False),
    Column("quantity", AMOUNT, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("time", TIME, nullable=False),
    PrimaryKeyConstraint("symbol", "acknowledgement_id"),
)

valuations = Table(
    "valuations",
    metadata,
    *_book_columns(),
    Column("number", BigInteger, nullable=False),
    Column("session", Date),
    Column("kind", Text, nullable=False),
    Column("book_version", BigInteger, nullable=False),
    Column("cash", AMOUNT, nullable=False),
    Column("positions_value", AMOUNT, nullable=False),
    Column("flow", AMOUNT, nullable=False),
    Column("growth", GROWTH, nullable=False),
    Column("time", TIME, nullable=False),
    _book_reference(),
    PrimaryKeyConstraint("strategy_name", "mode", "number"),
    CheckConstraint("kind IN ('FLOW', 'CLOSE')", name="kind"),
    CheckConstraint("kind = 'FLOW' OR (flow = 0 AND session IS NOT NULL)", name="close_of_session"),
)
# A session is closed once, and closes are read newest first.
Index(
    "valuations_closes_ix",
    valuations.c.strategy_name,
    valuations.c.mode,
    valuations.c.session,
    unique=True,
    postgresql_where=valuations.c.kind == "CLOSE",
)

risk_events = Table(
    "risk_events",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("strategy_name", Text, nullable=False),  # empty for the whole
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("time", TIME, nullable=False),
    CheckConstraint(
        "kind IN ('HALT', 'RESUME', 'FLATTEN', 'SILENT', 'HEARD', 'LIMITS')", name="kind"
    ),
    Index(None, "strategy_name", "event_id"),
)

portfolio_state = Table(
    "portfolio_state",
    metadata,
    *_one_row(),
    Column("halted", Boolean, nullable=False),
    Column("halt_reason", Text, nullable=False),
    Column("limits", JSONB),
    Column("update_time", TIME, nullable=False),
)

allocation_policy = Table(
    "allocation_policy",
    metadata,
    *_one_row(),
    Column("policy", JSONB, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    Column("plan_id", Uuid, primary_key=True),
    Column("state", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("plan", JSONB, nullable=False),
    Column("carry_out_time", TIME),
    CheckConstraint("state IN ('PLANNED', 'CARRIED_OUT')", name="state"),
    CheckConstraint("mode IN ('PAPER', 'LIVE')", name="mode"),
    CheckConstraint(
        "(state = 'CARRIED_OUT') = (carry_out_time IS NOT NULL)", name="carried_out_or_not"
    ),
    Index(None, "mode", "carry_out_time"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("decision_id", Uuid, primary_key=True),
    Column("strategy_name", Text, ForeignKey("strategies.strategy_name"), nullable=False),
    Column("time", TIME, nullable=False),
    Column("rule", Text, nullable=False),
    Column("requested_mode", Text, nullable=False),
    Column("from_mode", Text, nullable=False),
    Column("to_mode", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    CheckConstraint("outcome IN ('STAYS', 'CHANGED', 'WAITS_UNTIL_FLAT')", name="outcome"),
    Index(None, "strategy_name", "decision_id"),
)

mutations = Table(
    "mutations",
    metadata,
    Column("mutation_id", Uuid, primary_key=True),
    Column("create_time", TIME, nullable=False),
    Column("actor", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("strategy_name", Text, nullable=False),  # empty for several, or the whole
    Column("subject", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("trace_id", Text, nullable=False),
    # Ids are UUIDv7, so the key and these give each list newest first.
    Index(None, "strategy_name", "mutation_id"),
    Index(None, "actor", "mutation_id"),
)
