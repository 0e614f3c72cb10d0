-- The shape of pgbench's transactions: three updates of one row each, one insert.
create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84));
create table pgbench_tellers (tid int primary key, bid int, tbalance int, filler char(84));
create table pgbench_branches (bid int primary key, bbalance int, filler char(88));
create table pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
insert into pgbench_accounts select n, 1, 0, '' from generate_series(1, 100) n;
insert into pgbench_tellers select n, 1, 0, '' from generate_series(1, 10) n;
insert into pgbench_branches values (1, 0, '');
-- capture starts here
do $$ begin
    for n in 1..20 loop
        update pgbench_accounts set abalance = abalance + n * 37 where aid = (n * 7) % 100 + 1;
        update pgbench_tellers set tbalance = tbalance + n * 37 where tid = n % 10 + 1;
        update pgbench_branches set bbalance = bbalance + n * 37 where bid = 1;
        insert into pgbench_history (tid, bid, aid, delta, mtime)
            values (n % 10 + 1, 1, (n * 7) % 100 + 1, n * 37, '2026-11-05 10:00:00'::timestamp + n * interval '1 ms');
        commit;
    end loop;
end $$;
