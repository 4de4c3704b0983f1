"""The hot statements, each named and described. Run prepared, on long-lived asyncpg connections.

SQLAlchemy's execution costs about 0.6 ms of CPU a statement, more than all the rest of a small read
together, so what every order and every tick runs is SQL; all else is SQLAlchemy Core.
"""

from dataclasses import fields

from services.portfolio.domain.order import Fill, Order

# Locks strategies and their books in name order, which keeps two writers from waiting for each
# other in a ring. Whoever changes a book, an order or a position holds this lock. PostgreSQL reads
# locked rows anew after a wait, so these versions are the present ones. NO KEY: foreign keys stay
# free.
LOCK = """
SELECT s.strategy_name, s.requested_mode, s.mode, s.state, s.halt_reason, s.update_time,
       s.session, s.session_given, s.portfolio_halted, s.limits, s.promoted, s.live_since,
       s.silent, s.flattening,
       b.mode AS book_mode, b.version, w.limits AS whole_limits
FROM strategies s JOIN books b USING (strategy_name) LEFT JOIN portfolio_state w ON true
WHERE s.strategy_name = ANY($1)
ORDER BY s.strategy_name, b.mode
FOR NO KEY UPDATE OF s, b
"""

# Books of locked strategies with their positions. A statement of its own, after the lock: its
# snapshot is then newer than the last change of whoever held the lock before.
BOOKS = """
SELECT b.strategy_name, b.mode, b.version, b.cash, b.reserved_cash, b.update_time, b.due,
       p.position_id, p.symbol, p.quantity, p.reserved_quantity, p.cost, p.realized_pnl,
       p.last_price, p.update_time AS position_update_time
FROM books b
LEFT JOIN positions p USING (strategy_name, mode)
WHERE b.strategy_name = ANY($1)
"""

ORDER_COLUMNS = ", ".join(field.name for field in fields(Order))

# Which strategies to lock for orders and positions that are named by id.
OWNERS = """
SELECT strategy_name FROM orders WHERE order_id = ANY($1)
UNION
SELECT strategy_name FROM positions WHERE position_id = ANY($2)
"""

ORDERS_BY_ID = f"""
SELECT {ORDER_COLUMNS} FROM orders WHERE order_id = ANY($1) ORDER BY order_id
"""  # noqa: S608 - column names of a dataclass

# Open orders are never EXECUTED, and so in the small index of those that are not.
OPEN_ORDERS = f"""
SELECT {ORDER_COLUMNS} FROM orders
WHERE status IN ('PENDING', 'UNKNOWN') AND strategy_name = ANY($1)
"""  # noqa: S608 - column names of a dataclass

FILL_COLUMNS = ", ".join(field.name for field in fields(Fill))

FILLS = f"""
SELECT {FILL_COLUMNS} FROM fills WHERE order_id = ANY($1) ORDER BY book_version
"""  # noqa: S608 - column names of a dataclass

POSITION_OWNERS = """
SELECT position_id, strategy_name, mode, symbol FROM positions WHERE position_id = ANY($1)
"""

# What was answered to these request_ids.
REQUESTS = """
SELECT request_id, method, fingerprint, answer FROM requests WHERE request_id = ANY($1)
"""

REMEMBER = """
INSERT INTO requests (request_id, method, fingerprint, answer, time)
SELECT *, now() FROM unnest($1::text[], $2::text[], $3::bytea[], $4::jsonb[])
"""

# All that a batch writes, in one statement: each table from one JSON array of rows. asyncpg encodes
# one text far faster than an array for every column, and the router's one core is dearer than the
# server's. Present state is inserted or replaced; facts are only ever inserted.
WRITE = """
WITH strategy AS (
    INSERT INTO strategies (strategy_name, requested_mode, mode, state, halt_reason, update_time,
                            session, session_given, portfolio_halted, limits, promoted, live_since,
                            silent, flattening)
    SELECT strategy_name, requested_mode, mode, state, halt_reason, update_time,
           session, session_given, portfolio_halted, limits, promoted, live_since,
           silent, flattening
    FROM json_populate_recordset(NULL::strategies, $1)
    ON CONFLICT (strategy_name) DO UPDATE SET
        requested_mode = excluded.requested_mode, mode = excluded.mode, state = excluded.state,
        halt_reason = excluded.halt_reason, update_time = excluded.update_time,
        session = excluded.session, session_given = excluded.session_given,
        portfolio_halted = excluded.portfolio_halted, limits = excluded.limits,
        promoted = excluded.promoted, live_since = excluded.live_since,
        silent = excluded.silent, flattening = excluded.flattening
), book AS (
    INSERT INTO books (strategy_name, mode, version, cash, reserved_cash, update_time, due)
    SELECT strategy_name, mode, version, cash, reserved_cash, update_time, due
    FROM json_populate_recordset(NULL::books, $2)
    ON CONFLICT (strategy_name, mode) DO UPDATE SET
        version = excluded.version, cash = excluded.cash, reserved_cash = excluded.reserved_cash,
        update_time = excluded.update_time, due = excluded.due
), position AS (
    INSERT INTO positions (position_id, strategy_name, mode, symbol, quantity, reserved_quantity,
                           cost, realized_pnl, last_price, update_time)
    SELECT position_id, strategy_name, mode, symbol, quantity, reserved_quantity,
           cost, realized_pnl, last_price, update_time
    FROM json_populate_recordset(NULL::positions, $3)
    ON CONFLICT (position_id) DO UPDATE SET
        quantity = excluded.quantity, reserved_quantity = excluded.reserved_quantity,
        cost = excluded.cost, realized_pnl = excluded.realized_pnl,
        last_price = excluded.last_price, update_time = excluded.update_time
), "order" AS (
    INSERT INTO orders (order_id, strategy_name, mode, symbol, side, quantity, price, status,
                        filled_quantity, filled_value, commission, reserved_cash, reason,
                        request_id, create_time, update_time, twin_of)
    SELECT order_id, strategy_name, mode, symbol, side, quantity, price, status,
           filled_quantity, filled_value, commission, reserved_cash, reason,
           request_id, create_time, update_time, twin_of
    FROM json_populate_recordset(NULL::orders, $4)
    ON CONFLICT (order_id) DO UPDATE SET
        status = excluded.status, filled_quantity = excluded.filled_quantity,
        filled_value = excluded.filled_value, commission = excluded.commission,
        reserved_cash = excluded.reserved_cash, reason = excluded.reason,
        update_time = excluded.update_time
), fill AS (
    INSERT INTO fills (order_id, execution_id, book_version, quantity, price, value, commission,
                       time, kind)
    SELECT order_id, execution_id, book_version, quantity, price, value, commission, time, kind
    FROM json_populate_recordset(NULL::fills, $5)
), cash AS (
    INSERT INTO cash_entries (strategy_name, mode, book_version, kind, amount, actor, reason, time)
    SELECT strategy_name, mode, book_version, kind, amount, actor, reason, time
    FROM json_populate_recordset(NULL::cash_entries, $6)
), adjustment AS (
    INSERT INTO position_adjustments (strategy_name, mode, book_version, symbol, quantity_delta,
                                      cost_delta, price, actor, reason, time)
    SELECT strategy_name, mode, book_version, symbol, quantity_delta,
           cost_delta, price, actor, reason, time
    FROM json_populate_recordset(NULL::position_adjustments, $7)
), event AS (
    INSERT INTO order_events (order_id, book_version, from_status, to_status, reason, actor, time)
    SELECT order_id, book_version, from_status, to_status, reason, actor, time
    FROM json_populate_recordset(NULL::order_events, $8)
), mutation AS (
    INSERT INTO mutations (mutation_id, create_time, actor, method, strategy_name, subject,
                           request_id, trace_id)
    SELECT mutation_id, create_time, actor, method, strategy_name, subject, request_id, trace_id
    FROM json_populate_recordset(NULL::mutations, $9)
)
SELECT pg_notify('ledger', payload) FROM unnest($10::text[]) AS payload
"""

# What LIVE orders add to a batch, after WRITE. Ids come sorted, so that all lock in one order.
INTEND = """
INSERT INTO broker_orders (order_id) SELECT unnest($1::uuid[])
"""

# An order that has no intent, from before there were any, gets one that nobody may send.
REQUEST_CANCEL = """
INSERT INTO broker_orders (order_id, cancel_requested) SELECT unnest($1::uuid[]), true
ON CONFLICT (order_id) DO UPDATE SET cancel_requested = true
"""

ACKNOWLEDGE = """
INSERT INTO acknowledgements (symbol, quantity, actor, reason, time)
SELECT symbol, quantity, actor, reason, time
FROM json_populate_recordset(NULL::acknowledgements, $1)
"""

# Whoever decides by the account takes turns, so that UNATTRIBUTED shares are given away once. The
# last lock that a transaction takes, and so never part of a ring.
LOCK_ACCOUNT = "LOCK TABLE acknowledgements IN SHARE ROW EXCLUSIVE MODE"

# The newest acknowledgement of each symbol.
ACKNOWLEDGED = """
SELECT DISTINCT ON (symbol) symbol, quantity FROM acknowledgements
ORDER BY symbol, acknowledgement_id DESC
"""

# Symbols of the account as last compared, with the LIVE books and the acknowledgements of now.
ACCOUNTS = f"""
SELECT symbol, compared.quantity AS broker, coalesce(newest.quantity, 0) AS acknowledged,
       (SELECT coalesce(sum(quantity), 0) FROM positions held
        WHERE held.mode = 'LIVE' AND held.symbol = compared.symbol) AS strategies
FROM broker_positions compared
LEFT JOIN ({ACKNOWLEDGED}) AS newest USING (symbol)
WHERE symbol = ANY($1)
"""  # noqa: S608 - no value is spliced in

# What judgement adds to a batch, after WRITE.
VALUE = """
INSERT INTO valuations (strategy_name, mode, number, session, kind, book_version, cash,
                        positions_value, flow, growth, time)
SELECT strategy_name, mode, number, session, kind, book_version, cash,
       positions_value, flow, growth, time
FROM json_populate_recordset(NULL::valuations, $1)
"""

RISK_EVENTS = """
INSERT INTO risk_events (event_id, strategy_name, kind, reason, actor, time)
SELECT event_id, strategy_name, kind, reason, actor, time
FROM json_populate_recordset(NULL::risk_events, $1)
"""

DECIDE = """
INSERT INTO decisions (decision_id, strategy_name, time, rule, requested_mode, from_mode, to_mode,
                       outcome, reason, evidence)
SELECT decision_id, strategy_name, time, rule, requested_mode, from_mode, to_mode,
       outcome, reason, evidence
FROM json_populate_recordset(NULL::decisions, $1)
"""

# The last decision on the mode of each strategy.
LAST_DECISIONS = """
SELECT d.* FROM unnest($1::text[]) AS name CROSS JOIN LATERAL (
    SELECT * FROM decisions WHERE strategy_name = name ORDER BY decision_id DESC LIMIT 1
) d
"""

SET_WHOLE = """
INSERT INTO portfolio_state (one, halted, halt_reason, limits, update_time)
VALUES (true, $1, $2, $3, $4)
ON CONFLICT (one) DO UPDATE SET halted = excluded.halted, halt_reason = excluded.halt_reason,
    limits = excluded.limits, update_time = excluded.update_time
"""

WHOLE = "SELECT halted, halt_reason, limits, update_time FROM portfolio_state"

SET_POLICY = """
INSERT INTO allocation_policy (one, policy) VALUES (true, $1)
ON CONFLICT (one) DO UPDATE SET policy = excluded.policy
"""

POLICY = "SELECT policy FROM allocation_policy"

PLAN = """
INSERT INTO plans (plan_id, state, mode, plan, carry_out_time)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::timestamptz[])
ON CONFLICT (plan_id) DO UPDATE SET state = excluded.state, plan = excluded.plan,
    carry_out_time = excluded.carry_out_time
"""

PLANS = "SELECT plan FROM plans WHERE plan_id = ANY($1) FOR NO KEY UPDATE"

# Whoever halts everything waits until every batch has ended, and no other begins: all of them hold
# this table in ROW SHARE, from their first lock on. New strategies included.
LOCK_EVERYONE = "LOCK TABLE strategies IN EXCLUSIVE MODE"

EVERYONE = "SELECT strategy_name FROM strategies"

MARKS = "SELECT strategy_name, symbol, price, time FROM marks WHERE strategy_name = ANY($1)"

# The last valuation of each book.
LAST_VALUATIONS = """
SELECT v.strategy_name, v.mode, v.number, v.session, v.kind, v.book_version, v.cash,
       v.positions_value, v.flow, v.growth, v.time
FROM books b CROSS JOIN LATERAL (
    SELECT * FROM valuations v
    WHERE v.strategy_name = b.strategy_name AND v.mode = b.mode
    ORDER BY v.number DESC LIMIT 1
) v
WHERE b.strategy_name = ANY($1)
"""

# Orders accepted since an id: UUIDv7 begins with its time. Twins are nobody's orders.
RECENT_ORDERS = """
SELECT strategy_name, count(*) FROM orders
WHERE strategy_name = ANY($1) AND order_id >= $2 AND twin_of IS NULL
GROUP BY strategy_name
"""

RECENT_ORDERS_OF_ALL = "SELECT count(*) FROM orders WHERE order_id >= $1 AND twin_of IS NULL"

# With a limit on the orders of all, whoever counts them takes turns.
LOCK_COUNT = "SELECT pg_advisory_xact_lock(7205311120)"

# A position is worth its last price: what the strategy saw last, or traded at since.
MARKET_PRICE = """
CASE WHEN m.time > p.update_time THEN m.price
     WHEN p.last_price > 0 THEN p.last_price
     ELSE round(p.cost / p.quantity, 8) END
"""

POSITION_VIEW = f"""
SELECT p.position_id, p.strategy_name, p.symbol, p.mode, p.quantity, p.cost,
       {MARKET_PRICE} AS market_price, p.realized_pnl,
       greatest(p.update_time, m.time) AS update_time
FROM positions p
LEFT JOIN marks m USING (strategy_name, symbol)
WHERE p.position_id = $1 AND p.quantity > 0
"""  # noqa: S608 - no value is spliced in

# Every strategy in its mode in force, at market. Weights need the equity of all, so all are read
# and the wanted ones kept.
PORTFOLIO_VIEWS = f"""
WITH held AS (
    SELECT p.strategy_name, p.mode,
           coalesce(sum(round(p.quantity * {MARKET_PRICE}, 8)) FILTER (WHERE p.quantity > 0), 0)
               AS positions_value,
           sum(p.cost) AS positions_cost,
           sum(p.realized_pnl) AS realized_pnl,
           bool_or(p.quantity > 0) AS invested,
           max(m.time) FILTER (WHERE p.quantity > 0) AS mark_time
    FROM positions p
    LEFT JOIN marks m USING (strategy_name, symbol)
    GROUP BY p.strategy_name, p.mode
), every AS (
    SELECT s.strategy_name, s.mode, s.requested_mode,
           CASE WHEN s.portfolio_halted THEN 'HALTED' ELSE s.state END AS state,
           CASE WHEN s.state = 'HALTED' THEN s.halt_reason
                WHEN s.portfolio_halted THEN w.halt_reason ELSE '' END AS halt_reason,
           s.session, s.limits ->> 'lease_s' AS lease_s,
           (SELECT max(time) FROM marks seen WHERE seen.strategy_name = s.strategy_name)
               AS seen_time,
           b.cash, b.reserved_cash,
           coalesce(h.positions_value, 0) AS positions_value,
           coalesce(h.positions_cost, 0) AS positions_cost,
           coalesce(h.realized_pnl, 0) AS realized_pnl,
           coalesce(h.invested, false) AS invested,
           sum(b.cash + coalesce(h.positions_value, 0)) OVER () AS total_equity,
           greatest(s.update_time, b.update_time, h.mark_time) AS update_time
    FROM strategies s
    JOIN books b USING (strategy_name, mode)
    LEFT JOIN held h USING (strategy_name, mode)
    LEFT JOIN portfolio_state w ON true
    WHERE s.strategy_name <> 'RESERVE'
)
SELECT * FROM every
WHERE $1::text[] IS NULL OR strategy_name = ANY($1)
ORDER BY strategy_name
"""  # noqa: S608 - no value is spliced in

# What the named strategies hold in their mode in force. Strategies ask this before each decision.
INVESTED = """
SELECT s.strategy_name, s.mode,
       coalesce(array_agg(p.symbol ORDER BY p.symbol) FILTER (WHERE p.quantity > 0), '{}')
           AS symbols
FROM strategies s
LEFT JOIN positions p USING (strategy_name, mode)
WHERE s.strategy_name = ANY($1)
GROUP BY s.strategy_name, s.mode
"""

# Keeps the prices that strategies saw; an older price never replaces a newer one. Prices of a later
# session than their strategy's are left for later, and so are the first whose session it names. $3
# is the session of prices that came with none, from a strategy that names none. Names that do not
# exist are left out of the answer. Watchers of those strategies are told.
MARK = """
WITH given AS (
    SELECT m.*, known.session AS known, known.session_given,
           coalesce(m.session, CASE WHEN known.session_given THEN known.session ELSE $3 END) AS day
    FROM json_to_recordset($1)
        AS m(strategy_name text, symbol text, price numeric, time timestamptz, session date)
    JOIN strategies known USING (strategy_name)
), seen AS (
    SELECT strategy_name, symbol, price, time, session,
           CASE WHEN day IS NULL OR known IS NULL THEN day IS NULL
                WHEN session IS NOT NULL AND NOT session_given THEN false
                ELSE day <= known END AS keep
    FROM given
), kept AS (
    INSERT INTO marks (strategy_name, symbol, price, time)
    SELECT DISTINCT ON (strategy_name, symbol) strategy_name, symbol, price, time
    FROM seen WHERE keep
    ORDER BY strategy_name, symbol, time DESC, session DESC
    ON CONFLICT (strategy_name, symbol) DO UPDATE SET price = excluded.price, time = excluded.time
    WHERE marks.time <= excluded.time
), told AS (
    SELECT pg_notify('ledger', payload) FROM unnest($2::text[]) AS payload
)
SELECT DISTINCT strategy_name, session, keep, (SELECT count(*) FROM told) FROM seen
"""
