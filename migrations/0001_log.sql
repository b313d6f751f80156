-- The log: what producers sent, in one total order, and the keys that make sending repeatable.
--
-- Three orders are one here. Under the log lock each event gets the next `position`, the next tick of
-- `log_clock` (microseconds, never going back) as its `created_at`, and an id that begins with that tick
-- (UUIDv7, RFC 9562 section 5.7, with the microseconds in rand_a). So position, time and id sort alike,
-- an id or a time prunes to its day's partition, and a reader at a known event needs to look only at
-- that day and later.

create sequence log_position cache 1;
create sequence log_clock cache 1;

create table event (
    id          uuid        not null,
    position    bigint      not null,
    event_type  text        not null,
    source      text        not null,
    payload     bytea       not null,
    created_at  timestamptz not null,
    constraint event_pkey primary key (id)
) partition by range (id);
create index event_position on event (position);

create table idempotency_key (
    source      text        not null,
    key         text        not null,
    event_id    uuid        not null,
    fingerprint bytea       not null,
    created_at  timestamptz not null,
    constraint idempotency_key_pkey primary key (source, key)
);
create index idempotency_key_created_at on idempotency_key (created_at);

-- Takes the log lock until the end of this transaction. PostgreSQL makes a commit visible before it
-- releases its locks: whoever sees position N sees all that is below it.
create function lock_log() returns void language sql volatile as $$
    select pg_advisory_xact_lock(5495127463921472)
$$;

-- The next `n` positions; returns the first. Only for holders of the log lock.
create function draw_positions(n bigint) returns bigint language plpgsql volatile as $$
declare
    head bigint;
begin
    head := nextval('log_position');
    if n > 1 then
        perform setval('log_position', head + n - 1);
    end if;
    return head;
end
$$;

-- The next `n` ticks of the log's clock, in microseconds since 1970; returns the first.
-- Only for holders of the log lock.
create function draw_ticks(n bigint) returns bigint language plpgsql volatile as $$
declare
    head bigint;
begin
    select greatest((extract(epoch from clock_timestamp()) * 1000000)::bigint, last_value + 1)
        into head from log_clock;
    perform setval('log_clock', head + n - 1);
    return head;
end
$$;

create function tick_to_timestamp(tick bigint) returns timestamptz language sql immutable as $$
    select timestamptz 'epoch' + tick * interval '1 microsecond'
$$;

-- The smallest id that an event of this tick can have.
create function id_floor(tick bigint) returns uuid language sql immutable as $$
    select (lpad(to_hex(tick / 1000), 12, '0') || '7' || lpad(to_hex(tick % 1000), 3, '0')
            || '8000000000000000')::uuid
$$;

create function id_floor(at timestamptz) returns uuid language sql immutable as $$
    select id_floor((extract(epoch from at) * 1000000)::bigint)
$$;

-- Appends a batch of events, given as columns; keys and fingerprints may hold nulls where an event has
-- no idempotency key. One row is answered for each, in order: `created`; `duplicate` (the key is known
-- with this fingerprint) or `conflict` (with another), these with the first event's id and time.
--
-- The lock is the first statement, and each statement after it has a snapshot of its own (READ
-- COMMITTED, volatile function). As one plain SQL statement the snapshot would precede the lock, and a
-- tail could miss rows.
create function append_events(
    event_types text[], sources text[], payloads bytea[], keys text[], fingerprints bytea[]
) returns table (ordinal bigint, status text, event_id uuid, at timestamptz)
language plpgsql volatile as $$
declare
    n              bigint := cardinality(event_types);
    first_position bigint;
    first_tick     bigint;
begin
    perform lock_log();
    first_position := draw_positions(n);
    first_tick := draw_ticks(n);
    return query
    with input as (
        select i.n as ord, i.event_type, i.source, i.payload, i.key, i.fingerprint,
               (lpad(to_hex((first_tick + i.n - 1) / 1000), 12, '0') || '7'
                || lpad(to_hex((first_tick + i.n - 1) % 1000), 3, '0')
                || substr(gen_random_uuid()::text, 20))::uuid as id,
               tick_to_timestamp(first_tick + i.n - 1) as tick,
               case when i.key is null then i.n
                    else min(i.n) over (partition by i.source, i.key) end as leader
        from unnest(event_types, sources, payloads, keys, fingerprints)
             with ordinality as i (event_type, source, payload, key, fingerprint, n)
    ), known as (
        select i.ord, k.event_id as first_id, k.fingerprint as first_fingerprint, k.created_at as first_at
        from input i join idempotency_key k on k.source = i.source and k.key = i.key
    ), fresh as (
        select i.* from input i
        where i.leader = i.ord and not exists (select from known k where k.ord = i.ord)
    ), inserted as (
        insert into event (id, position, event_type, source, payload, created_at)
        select f.id, first_position + f.ord - 1, f.event_type, f.source, f.payload, f.tick
        from fresh f order by f.ord
    ), keyed as (
        insert into idempotency_key (source, key, event_id, fingerprint, created_at)
        select f.source, f.key, f.id, f.fingerprint, f.tick from fresh f where f.key is not null
    )
    select i.ord,
           case when k.ord is null and i.leader = i.ord then 'created'
                when coalesce(k.first_fingerprint, l.fingerprint) = i.fingerprint then 'duplicate'
                else 'conflict' end,
           coalesce(k.first_id, l.id),
           coalesce(k.first_at, l.tick)
    from input i
    join input l on l.ord = i.leader
    left join known k on k.ord = i.ord
    order by i.ord;
end
$$;

-- Makes the daily partitions of `event`, `delivery` and `attempt` from yesterday to `days` ahead.
create function make_partitions(days int) returns int language plpgsql as $$
declare
    made  int := 0;
    day   date;
    child text;
    t     text;
begin
    perform pg_advisory_xact_lock(5495127463921473);
    foreach t in array array['event', 'delivery', 'attempt'] loop
        for d in -1 .. days loop
            day := (clock_timestamp() at time zone 'utc')::date + d;
            child := t || '_' || to_char(day, 'YYYYMMDD');
            if to_regclass(child) is null then
                execute format('create table %I partition of %I for values from (%L) to (%L)', child, t,
                    id_floor(day::timestamp at time zone 'utc'),
                    id_floor((day + 1)::timestamp at time zone 'utc'));
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end
$$;
