-- Values stored out of line that an update does not touch, under each replica identity.
create table doc (id int primary key, title text, body text, tail text);
alter table doc alter column body set storage external, alter column tail set storage external;
create table doc_full (id int, title text, body text);
alter table doc_full alter column body set storage external;
alter table doc_full replica identity full;
-- capture starts here
insert into doc values (1, 'a', repeat('b', 2500), repeat('t', 2500)), (2, 'b', 'short', null);
update doc set title = 'A' where id = 1;
update doc set tail = null where id = 1;
update doc set id = 7, title = 'moved' where id = 1;
update doc set body = repeat('n', 2200) where id = 7;
insert into doc_full values (1, 'a', repeat('f', 2300));
update doc_full set title = 'B';
delete from doc_full;
delete from doc;
