-- As many columns as a table can have.
do $$ begin
    execute 'create table wide (' || (
        select string_agg(format('c%s %s', n, case when n = 1 then 'int primary key' else 'int2' end), ', ')
        from generate_series(1, 1600) n) || ')';
end $$;
-- capture starts here
insert into wide (c1, c2, c1600) values (1, 2, 1600);
update wide set c800 = 800;
update wide set c1 = 2;
