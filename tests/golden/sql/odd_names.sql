-- Names that need quoting, of the longest length, in other alphabets, and one key column among dropped ones.
create schema "Odd ""schema""";
create table "Odd ""schema"""."таблица.1; --" ("a""b" text, "select" int primary key, "naïve col" text);
create table "n23456789012345678901234567890123456789012345678901234567890123" (
    "c23456789012345678901234567890123456789012345678901234567890123" int primary key, "😀" text);
create table dropped (gone int, id int primary key, gone_too text, kept text);
alter table dropped drop column gone, drop column gone_too;
create table part (id int, region text, primary key (id, region)) partition by list (region);
create table part_eu partition of part for values in ('eu');
create table part_us (extra int, region text not null, id int not null);
alter table part_us drop column extra;
alter table part attach partition part_us for values in ('us');
-- capture starts here
insert into "Odd ""schema"""."таблица.1; --" values ('x', 1, 'ü'), (null, 2, '');
update "Odd ""schema"""."таблица.1; --" set "a""b" = '''; drop table x' where "select" = 1;
insert into "n23456789012345678901234567890123456789012345678901234567890123" values (1, '🦆');
insert into dropped values (1, 'kept');
delete from dropped;
insert into part values (1, 'eu'), (2, 'us');
update part set region = 'us' where id = 1;
truncate part;
