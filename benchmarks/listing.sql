-- :orders executed orders of the strategy Bench_001, a millisecond apart, the newest now.
INSERT INTO orders (order_id, strategy_name, mode, symbol, side, quantity, price, status,
                    filled_quantity, filled_value, commission, reserved_cash, reason, request_id,
                    create_time, update_time)
SELECT uuidv7((n - :orders) * interval '1 ms'), 'Bench_001', 'PAPER', 'SPXL',
       CASE WHEN n % 2 = 1 THEN 'BUY' ELSE 'SELL' END, 1, 1, 'EXECUTED', 1, 1, 0, 0, '', '',
       moment, moment
FROM generate_series(1, :orders) AS n, LATERAL (SELECT now() + (n - :orders) * interval '1 ms') AS t (moment);
ANALYZE orders;
