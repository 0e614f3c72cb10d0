-- What `--target-sync-schema` has to bring, between things that it leaves alone (schema elsewhere).
CREATE SCHEMA "Odd Schema";
CREATE SCHEMA types;
CREATE SCHEMA elsewhere;
CREATE EXTENSION btree_gist;
CREATE EXTENSION citext WITH SCHEMA types;

CREATE TYPE types.mood AS ENUM ('sad', 'it''s ok', 'happy');
COMMENT ON TYPE types.mood IS 'how one feels; in three words';
CREATE DOMAIN types.email AS types.citext DEFAULT 'nobody@' CHECK (VALUE ~ '@');
CREATE TYPE types.pair AS (a int, b types.mood);
CREATE TYPE types.span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE FUNCTION types.next_no() RETURNS int LANGUAGE sql AS $$ SELECT 42 -- "quoted" 'text' $$;
CREATE FUNCTION types.shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
CREATE FUNCTION types.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN /*
--
-- TOC entry 1 (class 1259 OID 1)
-- Name: x; Type: TABLE; Schema: public; Owner: -
--
\restrict nothing */
    RETURN new;
END
$$;
CREATE COLLATION types.german (provider = libc, locale = 'C');
CREATE SEQUENCE types.shared AS smallint INCREMENT -3 MINVALUE -30000 MAXVALUE -1 CYCLE;

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY (START 1000 INCREMENT 5) PRIMARY KEY,
    email types.email NOT NULL UNIQUE,
    mood types.mood DEFAULT 'happy',
    no int DEFAULT types.next_no() CHECK (no > 0),
    shared smallint DEFAULT nextval('types.shared'),
    shouted text GENERATED ALWAYS AS (types.shout(email::text)) STORED,
    dropped int,
    name text COLLATE types.german,
    CONSTRAINT "odd ""name""" CHECK (name <> 'x'';--')
);
ALTER TABLE customers DROP COLUMN dropped;
COMMENT ON TABLE customers IS 'people
who buy';
COMMENT ON COLUMN customers.no IS 'their number';
COMMENT ON CONSTRAINT customers_pkey ON customers IS 'the key';
CREATE INDEX ON customers (types.shout(name)) INCLUDE (no) WHERE no > 3;
COMMENT ON INDEX customers_shout_no_idx IS 'to find them';
CREATE UNIQUE INDEX customers_lower ON customers (lower(name)) WHERE mood = 'sad';
CREATE STATISTICS customers_stat ON id, no FROM customers;
CREATE TRIGGER touch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION types.touch();
ALTER TABLE customers CLUSTER ON customers_email_key;

CREATE TABLE "Odd Schema"."Odd; Name" (
    "Id" serial PRIMARY KEY,
    customer bigint REFERENCES customers DEFERRABLE INITIALLY DEFERRED,
    p types.pair,
    during tstzrange,
    width types.span,
    moods types.mood[],
    EXCLUDE USING gist (customer WITH =, during WITH &&)
);
CREATE INDEX ON "Odd Schema"."Odd; Name" USING gin (moods);
ALTER TABLE "Odd Schema"."Odd; Name" REPLICA IDENTITY FULL;

CREATE TABLE parts (id int, at date, customer bigint REFERENCES customers, PRIMARY KEY (id, at))
    PARTITION BY RANGE (at);
CREATE TABLE parts_old PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')
    PARTITION BY LIST (id);
CREATE TABLE parts_old_a PARTITION OF parts_old FOR VALUES IN (1, 2);
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
CREATE INDEX parts_at ON parts (at);
ALTER TABLE parts_rest ADD CHECK (id > 0);

CREATE TABLE base (a int NOT NULL);
CREATE TABLE child (b int NOT NULL) INHERITS (base);
CREATE UNIQUE INDEX child_b ON child (b);
ALTER TABLE child REPLICA IDENTITY USING INDEX child_b;
ALTER TABLE base REPLICA IDENTITY FULL;
CREATE TABLE nodes (id int PRIMARY KEY, parent int REFERENCES nodes, other int);
CREATE TABLE leaves (id int PRIMARY KEY, node int);
ALTER TABLE leaves ADD FOREIGN KEY (node) REFERENCES nodes ON DELETE CASCADE NOT VALID;
ALTER TABLE nodes ADD FOREIGN KEY (other) REFERENCES leaves;

CREATE TABLE elsewhere.outside (id int PRIMARY KEY, customer bigint REFERENCES customers);
CREATE TABLE elsewhere."secret|.*" (id int);
CREATE VIEW elsewhere.view AS SELECT * FROM customers;
CREATE FUNCTION elsewhere.unused() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE MATERIALIZED VIEW elsewhere.matview AS SELECT * FROM customers;
CREATE TABLE refers (id int PRIMARY KEY, o int REFERENCES elsewhere.outside);
ALTER TABLE refers ENABLE ROW LEVEL SECURITY;
CREATE POLICY small ON refers USING (id < 1000);
CREATE POLICY known ON refers USING (id IN (SELECT id FROM elsewhere.outside));

INSERT INTO customers (email, name)
    SELECT 'c' || g || '@example.com', 'n' || g FROM generate_series(1, 2000) g;
INSERT INTO "Odd Schema"."Odd; Name" (customer, p, during)
    SELECT id, '(1,sad)', tstzrange('2020-01-01', '2020-01-02') FROM customers;
INSERT INTO parts SELECT 1 + g % 2, date '2020-01-01' + g, 1000 FROM generate_series(0, 300) g;
INSERT INTO parts SELECT g, '2022-02-02', 1005 FROM generate_series(1, 300) g;
INSERT INTO child SELECT g, g FROM generate_series(1, 100) g;
INSERT INTO base SELECT generate_series(1, 100);
INSERT INTO nodes SELECT g, nullif(g / 2, 0) FROM generate_series(1, 100) g;
INSERT INTO leaves SELECT g, g FROM generate_series(1, 100) g;
UPDATE nodes SET other = id;
INSERT INTO elsewhere.outside SELECT g FROM generate_series(1, 10) g;
INSERT INTO refers SELECT g, g FROM generate_series(1, 10) g;
