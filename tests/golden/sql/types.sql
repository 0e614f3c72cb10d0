-- One value of most types, with enum, domain, composite, range and arrays: these bring Type messages.
create schema shop;
create type shop.mood as enum ('sad', 'ok', 'happy');
create domain shop.postcode as varchar(10) check (value ~ '^[0-9]+$');
create type pair as (a int, b text);
create type span as range (subtype = float8);
create table every_type (
    id bigint generated always as identity primary key,
    c_bool bool, c_int2 int2, c_float4 float4, c_float8 float8, c_numeric numeric(20, 4),
    c_char char(5), c_varchar varchar(20), c_text text, c_bytea bytea, c_uuid uuid,
    c_date date, c_time time(3), c_timetz timetz, c_stamp timestamp, c_stamptz timestamptz,
    c_interval interval day to second, c_json json, c_jsonb jsonb, c_inet inet, c_macaddr macaddr,
    c_bit bit(4), c_varbit varbit(8), c_point point, c_money money, c_oid oid, c_acl aclitem,
    c_ints int[], c_texts text[], c_range int4range, c_multi int4multirange, c_tsv tsvector,
    c_mood shop.mood, c_moods shop.mood[], c_code shop.postcode, c_pair pair, c_span span, c_xml xml,
    c_made int generated always as (c_int2 + 1) stored
);
-- capture starts here
insert into every_type (
    c_bool, c_int2, c_float4, c_float8, c_numeric, c_char, c_varchar, c_text, c_bytea, c_uuid, c_date, c_time,
    c_timetz, c_stamp, c_stamptz, c_interval, c_json, c_jsonb, c_inet, c_macaddr, c_bit, c_varbit, c_point,
    c_money, c_oid, c_acl, c_ints, c_texts, c_range, c_multi, c_tsv, c_mood, c_moods, c_code, c_pair, c_span, c_xml
) values (
    true, -32768, 0.1, 'infinity', 12345678901234.5678, 'ab', 'väríable', E'tab\tline\nend\\', '\x00ff10',
    '00112233-4455-6677-8899-aabbccddeeff', '0044-03-15 BC', '23:59:59.999', '10:00+05:30', 'infinity',
    '2026-11-05 12:34:56.789012+02', '-3 days 04:05:06.7', '{"a" : 1}', '{"b": [1, null]}', '10.1.0.0/16',
    '08:00:2b:01:02:03', b'1010', b'101', '(1.5,-2)', '12.34', 4294967295, 'postgres=r/postgres',
    '{{1,2},{3,null}}', '{"",null,"a,b","\"q\""}', '[1,5)', '{[1,3),[5,8)}', 'a:1 b:2A', 'ok', '{sad,happy}',
    '12345', '(7,"x y")', '[0.5,2.5]', '<a b="c">d</a>'
);
insert into every_type default values;
update every_type set c_mood = 'happy', c_pair = '(8,)', c_texts = '{}' where id = 1;
alter type shop.mood add value 'great';
update every_type set c_mood = 'great', c_float8 = 'nan' where id = 2;
delete from every_type;
