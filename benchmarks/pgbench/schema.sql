-- What one order leaves behind, in the same tables, keys, checks and indexes as the peer's.
CREATE TABLE books (
    book_id integer PRIMARY KEY,
    strategy_name varchar(64) NOT NULL UNIQUE,
    mode varchar(16) NOT NULL DEFAULT 'PAPER',
    cash numeric(24, 8) NOT NULL CHECK (cash >= 0),
    realized_pnl numeric(24, 8) NOT NULL DEFAULT 0,
    update_time timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE orders (
    order_id uuid PRIMARY KEY DEFAULT uuidv7(),
    book_id integer NOT NULL REFERENCES books,
    strategy_name varchar(64) NOT NULL,
    symbol varchar(16) NOT NULL,
    side varchar(16) NOT NULL,
    quantity numeric(24, 8) NOT NULL CHECK (quantity > 0),
    price numeric(24, 8) NOT NULL,
    status varchar(16) NOT NULL,
    mode varchar(16) NOT NULL,
    filled_quantity numeric(24, 8) NOT NULL,
    average_fill_price numeric(24, 8) NOT NULL,
    commission numeric(24, 8) NOT NULL DEFAULT 0,
    reason varchar NOT NULL DEFAULT '',
    request_id varchar(64) UNIQUE,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_of_strategy ON orders (strategy_name, order_id);
CREATE TABLE fills (
    fill_id uuid PRIMARY KEY DEFAULT uuidv7(),
    order_id uuid NOT NULL REFERENCES orders,
    quantity numeric(24, 8) NOT NULL,
    price numeric(24, 8) NOT NULL,
    commission numeric(24, 8) NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON fills (order_id);
CREATE TABLE cash_entries (
    entry_id uuid PRIMARY KEY DEFAULT uuidv7(),
    book_id integer NOT NULL REFERENCES books,
    order_id uuid REFERENCES orders,
    amount numeric(24, 8) NOT NULL,
    kind varchar(16) NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON cash_entries (book_id);
CREATE TABLE positions (
    position_id uuid PRIMARY KEY DEFAULT uuidv7(),
    book_id integer NOT NULL REFERENCES books,
    symbol varchar(16) NOT NULL,
    quantity numeric(24, 8) NOT NULL CHECK (quantity >= 0),
    average_cost numeric(24, 8) NOT NULL,
    market_price numeric(24, 8) NOT NULL,
    realized_pnl numeric(24, 8) NOT NULL DEFAULT 0,
    update_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (book_id, symbol)
);
INSERT INTO books (book_id, strategy_name, cash)
SELECT n, 'Bench_' || lpad(n::text, 3, '0'), 1000000000000 FROM generate_series(1, 100) AS n;
