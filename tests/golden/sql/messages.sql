-- Logical messages inside and outside transactions, empty, large, with bytes that are no text.
create table entry (id int primary key);
-- capture starts here
select pg_logical_emit_message(false, 'loose', 'alone');
select pg_logical_emit_message(true, 'bound', 'alone');
begin;
select pg_logical_emit_message(true, 'bound', 'first');
insert into entry values (1);
select pg_logical_emit_message(false, 'loose', 'inside a transaction that commits');
select pg_logical_emit_message(true, '', '\x00ff00'::bytea);
insert into entry values (2);
commit;
begin;
insert into entry values (3);
select pg_logical_emit_message(true, 'bound', 'lost');
select pg_logical_emit_message(false, 'loose', 'inside a transaction that does not');
rollback;
select pg_logical_emit_message(true, 'pgflo', repeat('m', 1500));
select pg_logical_emit_message(true, 'empty', '');
