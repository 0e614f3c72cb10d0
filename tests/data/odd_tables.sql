-- Tables whose names, sizes and shapes trip tools up.
CREATE SCHEMA other;
CREATE SCHEMA "Dotted.Schema";
CREATE TABLE same (id int PRIMARY KEY, v text);
CREATE TABLE other.same (v text, id int PRIMARY KEY);
CREATE TABLE "Dotted.Schema"."Quoted ""Table""" ("a.b" int PRIMARY KEY, "select" text, "Ü" text);
-- 63 bytes, the longest name that PostgreSQL keeps.
CREATE TABLE "Yxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" (
    "Yxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" int PRIMARY KEY);
CREATE TABLE empty (id int PRIMARY KEY);
CREATE TABLE never_analysed (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = false);
CREATE TABLE huge (id int PRIMARY KEY, v text);
CREATE TABLE parted (id int, region text, v int, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu');
CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us');
INSERT INTO same SELECT i, 's' || i FROM generate_series(1, 1000) i;
INSERT INTO other.same SELECT 'o' || i, i FROM generate_series(1, 1000) i;
INSERT INTO "Dotted.Schema"."Quoted ""Table"""
    VALUES (1, E'tab\tnewline\nback\\slash', 'ü'), (2, NULL, '');
INSERT INTO "Yxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    SELECT generate_series(1, 10);
INSERT INTO never_analysed SELECT i, repeat('n', 100) FROM generate_series(1, 20000) i;
INSERT INTO huge VALUES (1, repeat('h', 50 * 1024 * 1024));
INSERT INTO parted
    SELECT i, CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, i FROM generate_series(1, 2000) i;
