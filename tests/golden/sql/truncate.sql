-- Truncates of one, of several, through a foreign key, with sequences.
create table parent (id serial primary key, label text);
create table child (id serial primary key, parent_id int references parent);
create table lone (id serial primary key);
-- capture starts here
insert into parent (label) values ('a'), ('b');
insert into child (parent_id) values (1), (2);
insert into lone default values;
truncate lone;
truncate parent, child;
begin;
insert into parent (label) values ('c');
truncate parent cascade;
insert into parent (label) values ('d');
truncate lone, parent restart identity cascade;
insert into lone default values;
commit;
truncate only child restart identity;
