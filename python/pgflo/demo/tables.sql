-- What the demo copies, beside Chinook: a million rows in tables of several kinds.
-- Every value depends on the row's number alone.

-- As pgbench has them.
CREATE TABLE accounts (
    id bigint PRIMARY KEY,
    branch integer NOT NULL,
    balance numeric(14, 2) NOT NULL,
    opened timestamptz NOT NULL,
    filler text
);

-- A name that needs quotes, a key of two columns.
CREATE TABLE "Order Items" (
    "Order" bigint,
    "Line" smallint,
    sku text NOT NULL,
    quantity integer NOT NULL,
    price numeric(10, 2) NOT NULL,
    discount double precision,
    PRIMARY KEY ("Order", "Line")
);

-- Partitioned: the leaves travel as themselves.
CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL,
    account bigint NOT NULL,
    what jsonb NOT NULL,
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
CREATE TABLE events_2025_q1 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2025-04-01');
CREATE TABLE events_2025_q2 PARTITION OF events FOR VALUES FROM ('2025-04-01') TO ('2025-07-01');
CREATE TABLE events_2025_q3 PARTITION OF events FOR VALUES FROM ('2025-07-01') TO ('2025-10-01');
CREATE TABLE events_2025_q4 PARTITION OF events FOR VALUES FROM ('2025-10-01') TO ('2026-01-01');

-- Values so large that PostgreSQL stores them apart (TOAST), and does not send them again when
-- another column changes.
CREATE TABLE documents (
    id integer PRIMARY KEY,
    title text NOT NULL,
    body text NOT NULL,
    words integer GENERATED ALWAYS AS (length(body) / 6) STORED,
    read_count integer NOT NULL DEFAULT 0
);
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL;

-- Never analysed, so the planner believes that it is empty.
CREATE TABLE visits (
    id bigint PRIMARY KEY,
    host inet,
    tags text[],
    seen tstzrange,
    note bytea
) WITH (autovacuum_enabled = off);

INSERT INTO accounts
SELECT n, n % 100, n % 100000 / 7.0, timestamptz '2020-01-01 UTC' + n * interval '5 min',
       repeat(chr(97 + (n % 26)::int), 60)
FROM generate_series(1, 500000) n;

INSERT INTO "Order Items"
SELECT n / 4, n % 4, 'SKU-' || n % 5000, n % 9 + 1, n % 20000 / 100.0,
       CASE WHEN n % 5 = 0 THEN n % 100 / 3.0 END
FROM generate_series(1, 200000) n;

INSERT INTO events (at, account, what)
SELECT timestamptz '2025-01-01 UTC' + n * interval '150 s', n % 500000 + 1,
       jsonb_build_object('kind', (ARRAY['login', 'buy', 'logout'])[n % 3 + 1], 'n', n)
FROM generate_series(1, 200000) n;

INSERT INTO documents (id, title, body)
SELECT n, 'Document ' || n,
       (SELECT string_agg(md5(n || '.' || i), ' ') FROM generate_series(1, 400) i)
FROM generate_series(1, 2000) n;

INSERT INTO visits
SELECT n, ('10.' || n % 256 || '.' || n / 256 % 256 || '.1')::inet,
       ARRAY['a' || n % 7, NULL, 'c "quoted", \ and more'],
       tstzrange(timestamptz '2025-01-01 UTC' + n * interval '1 s', NULL), decode(md5(n::text), 'hex')
FROM generate_series(1, 98000) n;

ANALYZE accounts, "Order Items", events, documents;
