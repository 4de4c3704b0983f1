-- One order of one share at 1.00 USD as one transaction, by one of :strategies strategies.
\set book random(1, :strategies)
BEGIN;
SELECT strategy_name, cash AS free FROM books WHERE book_id = :book FOR UPDATE \gset
INSERT INTO orders (book_id, strategy_name, symbol, side, quantity, price, status, mode,
                    filled_quantity, average_fill_price)
VALUES (:book, :strategy_name, 'SPXL', 'BUY', 1, 1.0, 'EXECUTED', 'PAPER', 1, 1.0)
RETURNING order_id \gset
INSERT INTO fills (order_id, quantity, price) VALUES (:order_id, 1, 1.0);
INSERT INTO cash_entries (book_id, order_id, amount, kind) VALUES (:book, :order_id, -1.0, 'BUY');
INSERT INTO positions AS held (book_id, symbol, quantity, average_cost, market_price)
VALUES (:book, 'SPXL', 1, 1.0, 1.0)
ON CONFLICT (book_id, symbol) DO UPDATE
SET quantity = held.quantity + 1,
    average_cost = (held.quantity * held.average_cost + 1.0) / (held.quantity + 1),
    market_price = 1.0,
    update_time = now();
UPDATE books SET cash = cash - 1.0, update_time = now() WHERE book_id = :book;
COMMIT;
