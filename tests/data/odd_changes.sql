-- Changes of the tables of odd_tables.sql.
UPDATE same SET v = 'changed' WHERE id < 10;
DELETE FROM other.same WHERE id < 10;
UPDATE "Dotted.Schema"."Quoted ""Table""" SET "select" = '"' WHERE "a.b" = 2;
INSERT INTO "Yxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" VALUES (0);
INSERT INTO empty VALUES (1);
UPDATE huge SET id = 2;
INSERT INTO huge VALUES (3, repeat('j', 50 * 1024 * 1024));
UPDATE parted SET region = 'us' WHERE id = 2;
TRUNCATE parted_eu;
