-- Tables that may only be inserted into: no identity at all, no column at all.
create table by_nothing (id int, label text);
alter table by_nothing replica identity nothing;
create table no_key (id int, label text);
create table no_column ();
-- capture starts here
insert into by_nothing values (1, 'one'), (2, null);
insert into no_key select n, 'row ' || n from generate_series(1, 40) n;
insert into no_column default values;
insert into no_column default values;
copy no_key from stdin;
100	from copy
101	\N
\.
