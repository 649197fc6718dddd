-- Keys that `dedupe` stages have seen, in partitions by the time at which they expire: what is over goes by dropping
-- a partition, and a look-up never looks at it. `topic`, `partition`, `offset` name the record that brought the key
-- first, `element` the element within its `for_each`, as in `/3`.
alter table dedupe_keys rename to dedupe_keys_before;

create table dedupe_keys (
    scope       text        not null,
    key_hash    bytea       not null,
    is_long     boolean     not null,
    expires_at  timestamptz not null,
    topic       text        not null,
    partition   integer     not null,
    "offset"    bigint      not null,
    element     text        not null,
    seen_at     timestamptz not null
) partition by list (is_long);

create index dedupe_keys_key on dedupe_keys (key_hash, scope);

-- Keys that are kept for days have a partition for each day, others one for 32 days, so that nobody ever has to look
-- into hundreds of them.
create table dedupe_keys_short partition of dedupe_keys for values in (false) partition by range (expires_at);
create table dedupe_keys_long partition of dedupe_keys for values in (true) partition by range (expires_at);

-- The partition that keeps keys until `until`.
create function dedupe_bounds(is_long boolean, until timestamptz, out name text, out low timestamptz, out high timestamptz)
language sql immutable as $$
    select format('dedupe_keys_%s_%s', kind, to_char(to_timestamp(start) at time zone 'UTC', 'YYYYMMDD')),
           to_timestamp(start), to_timestamp(start + width)
    from (select kind, width, floor(extract(epoch from until) / width)::bigint * width as start
          from (select case when is_long then 'long' else 'short' end as kind,
                       case when is_long then 32 * 86400 else 86400 end as width) w) s
$$;

-- Makes that partition, unless it is there. Attached rather than created in place: others go on meanwhile.
create function dedupe_ensure(is_long boolean, until timestamptz) returns void
language plpgsql as $$
declare
    b record;
    parent text := case when is_long then 'dedupe_keys_long' else 'dedupe_keys_short' end;
begin
    select * into b from dedupe_bounds(is_long, until);
    if to_regclass(b.name) is not null then
        return;
    end if;
    perform pg_advisory_xact_lock(1684370544, 0);
    if to_regclass(b.name) is not null then
        return;
    end if;
    execute format('create table %I (like %I including indexes)', b.name, parent);
    execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, b.name, b.low, b.high);
end
$$;

-- Claims keys, each named once, and gives whose they are: the claimant's, or those of an earlier record whose claim is
-- not over. Claims of the same key wait for each other, whatever partition their rows go to: the keys are locked by
-- some bits of their hash, in order, so that nobody waits in a circle.
--
-- The settings keep the look-up on the index, whatever the planner believes about partitions that have just been made.
create function dedupe_claim(
    scopes text[], hashes bytea[], topics text[], partitions integer[], offsets bigint[], elements text[],
    ttls double precision[]
) returns table (claim bigint, topic text, "partition" integer, "offset" bigint, element text)
language plpgsql
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    stripe integer;
    bucket record;
    t timestamptz;
    days_max constant double precision := 16 * 86400;
begin
    for stripe in select distinct get_byte(h, 0) & 63 from unnest(hashes) h order by 1 loop
        perform pg_advisory_xact_lock(1684370545, stripe);
    end loop;
    t := clock_timestamp();
    for bucket in
        select distinct ttl > days_max as is_long, (dedupe_bounds(ttl > days_max, t + make_interval(secs => ttl))).low
        from (select distinct ttl from unnest(ttls) ttl) d
    loop
        perform dedupe_ensure(bucket.is_long, bucket.low);
    end loop;
    return query
    with asked as materialized (
        select * from unnest(scopes, hashes, topics, partitions, offsets, elements, ttls) with ordinality
            as a(scope, hash, topic, partition, "offset", element, ttl, claim)
    ), seen as materialized (
        select a.claim, k.topic, k.partition, k."offset", k.element
        from asked a
        join dedupe_keys k on k.key_hash = a.hash and k.scope = a.scope and k.expires_at > t
    ), added as (
        insert into dedupe_keys (scope, key_hash, is_long, expires_at, topic, partition, "offset", element, seen_at)
        select a.scope, a.hash, a.ttl > days_max, t + make_interval(secs => a.ttl), a.topic, a.partition, a."offset",
               a.element, t
        from asked a where not exists (select from seen s where s.claim = a.claim)
    )
    select a.claim, coalesce(s.topic, a.topic), coalesce(s.partition, a.partition),
           coalesce(s."offset", a."offset"), coalesce(s.element, a.element)
    from asked a left join seen s on s.claim = a.claim;
end
$$;

-- Drops the partitions that are over at `t`; gives how many. One that somebody is using is left for the next time.
create function dedupe_sweep(t timestamptz) returns integer
language plpgsql
set lock_timeout = '200ms' as $$
declare
    p record;
    dropped integer := 0;
begin
    if not pg_try_advisory_xact_lock(1684370544, 1) then
        return 0;
    end if;
    for p in
        select c.relname as name, i.inhparent = 'dedupe_keys_long'::regclass as is_long
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent in ('dedupe_keys_short'::regclass, 'dedupe_keys_long'::regclass)
    loop
        if (dedupe_bounds(p.is_long, to_timestamp(right(p.name, 8), 'YYYYMMDD'))).high > t then
            continue;
        end if;
        begin
            execute format('drop table %I', p.name);
            dropped := dropped + 1;
        exception when lock_not_available then
            null;
        end;
    end loop;
    return dropped;
end
$$;

do $$
declare
    bucket record;
begin
    for bucket in
        select distinct (dedupe_bounds(k.expires_at > now() + interval '16 days', k.expires_at)).low as low,
                        k.expires_at > now() + interval '16 days' as is_long
        from dedupe_keys_before k where k.expires_at > now()
    loop
        perform dedupe_ensure(bucket.is_long, bucket.low);
    end loop;
end
$$;

insert into dedupe_keys (scope, key_hash, is_long, expires_at, topic, partition, "offset", element, seen_at)
select scope, key_hash, expires_at > now() + interval '16 days', expires_at, split_part(owner, '/', 1),
       split_part(owner, '/', 2)::integer, split_part(owner, '/', 3)::bigint,
       coalesce(substring(owner from '^[^/]*/[^/]*/[^/]*(/.*)$'), ''), now()
from dedupe_keys_before where expires_at > now();

drop table dedupe_keys_before;
