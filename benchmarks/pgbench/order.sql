-- One order of one share at 1.00 USD as one transaction, by one of :strategies strategies, in the
-- router's own tables: it locks what the router locks, leaves what the router leaves, and tells the
-- replicas as the router does, unless :tells is 0.
\set number random(1, :strategies)
BEGIN;
SELECT s.strategy_name AS name, b.version + 1 AS version
FROM strategies s JOIN books b USING (strategy_name)
WHERE s.strategy_name = 'Bench_' || lpad(:number::text, 3, '0')
FOR NO KEY UPDATE OF s, b \gset
UPDATE books SET version = :version, cash = cash - 1.0, update_time = now()
WHERE strategy_name = :name AND mode = 'PAPER';
INSERT INTO positions AS held (position_id, strategy_name, mode, symbol, quantity,
                               reserved_quantity, cost, realized_pnl, last_price, update_time)
VALUES (uuidv7(), :name, 'PAPER', 'SPXL', 1, 0, 1.0, 0, 1.0, now())
ON CONFLICT (strategy_name, mode, symbol) DO UPDATE
SET quantity = held.quantity + 1, cost = held.cost + 1.0, last_price = 1.0, update_time = now();
INSERT INTO orders (order_id, strategy_name, mode, symbol, side, quantity, price, status,
                    filled_quantity, filled_value, commission, reserved_cash, reason, request_id,
                    create_time, update_time)
VALUES (uuidv7(), :name, 'PAPER', 'SPXL', 'BUY', 1, 1.0, 'EXECUTED', 1, 1.0, 0, 0, '', '',
        now(), now())
RETURNING order_id \gset
INSERT INTO fills (order_id, execution_id, book_version, quantity, price, value, commission, time)
VALUES (:order_id, 'paper', :version, 1, 1.0, 1.0, 0, now());
INSERT INTO cash_entries (strategy_name, mode, book_version, kind, amount, actor, reason, time)
VALUES (:name, 'PAPER', :version, 'TRADE', -1.0, '', '', now());
INSERT INTO mutations (mutation_id, create_time, actor, method, strategy_name, subject, request_id,
                       trace_id)
VALUES (uuidv7(), now(), 'anonymous', 'BuyAll', :name, :order_id, '', '');
\if :tells
SELECT pg_notify('ledger', '{"strategies":["' || :name || '"],"orders":["' || :order_id || '"]}');
\endif
COMMIT;
