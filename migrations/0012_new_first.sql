-- Nearly all that is appended in batches is new: without a key, or under one that nobody has used. A batch is first
-- written as if all of it were, with plain inserts, and the primary key of the keys says whether it was. If it refuses,
-- nothing has been written, and the batch goes the way for all cases, whose windows and joins cost more than the rows.

-- Stable, as the addition in it is. Called immutable it could not be inlined, and each call was a query of its own.
create or replace function tick_to_timestamp(tick bigint) returns timestamptz language sql stable as $$
    select timestamptz 'epoch' + tick * interval '1 microsecond'
$$;

-- The id of an event of this tick. `tail` is its last 64 bits: random, but for the first two, which are 10 (so it is
-- negative, and has all its 16 digits). Milliseconds have 11 digits until the year 2527.
create function make_event_id(tick bigint, tail bigint) returns uuid language sql immutable as $$
    select ('0' || to_hex(tick / 1000 * 65536 + 7 * 4096 + tick % 1000) || to_hex(tail))::uuid
$$;

-- As before, but in expressions, which need no query.
create or replace function draw_positions(n bigint) returns bigint language plpgsql volatile as $$
declare
    head bigint := nextval('log_position');
begin
    if n > 1 then
        return setval('log_position', head + n - 1) - n + 1;
    end if;
    return head;
end
$$;

create or replace function draw_ticks(n bigint) returns bigint language plpgsql volatile as $$
declare
    head bigint := greatest((extract(epoch from clock_timestamp()) * 1000000)::bigint, nextval('log_clock'));
begin
    return setval('log_clock', head + n - 1) - n + 1;
end
$$;

-- Appends a batch of events, as before. `tails`: the random ends of their ids, which cost less where they are not asked
-- of PostgreSQL one by one. (Without them it is still called by the version before.)
--
-- An array is read by its subscripts, which is quick in PL/pgSQL: it keeps arrays taken apart.
create function append_events(
    event_types text[], sources text[], payloads bytea[], keys text[], fingerprints bytea[], tails bigint[]
) returns table (ordinal bigint, status text, event_id uuid, at timestamptz)
language plpgsql volatile as $$
declare
    n              bigint := cardinality(event_types);
    all_new        boolean := true;
    first_position bigint;
    first_tick     bigint;
    known          idempotency_key;
begin
    perform lock_log();
    if n = 1 then
        ordinal := 1;
        if keys[1] is not null then
            select * into known from idempotency_key k where k.source = sources[1] and k.key = keys[1];
            if found then
                status := case when known.fingerprint = fingerprints[1] then 'duplicate' else 'conflict' end;
                event_id := known.event_id;
                at := known.created_at;
                return next;
                return;
            end if;
        end if;
        status := 'created';
        first_position := draw_positions(1);
        first_tick := draw_ticks(1);
        event_id := make_event_id(first_tick, tails[1]);
        at := tick_to_timestamp(first_tick);
        insert into event (id, position, event_type, source, payload, created_at)
            values (event_id, first_position, event_types[1], sources[1], payloads[1], at);
        if keys[1] is not null then
            insert into idempotency_key (source, key, event_id, fingerprint, created_at)
                values (sources[1], keys[1], event_id, fingerprints[1], at);
        end if;
        return next;
        return;
    end if;

    first_position := draw_positions(n);
    first_tick := draw_ticks(n);
    if array_remove(keys, null) <> '{}' then
        begin
            insert into idempotency_key (source, key, event_id, fingerprint, created_at)
            select sources[i.n], keys[i.n], make_event_id(first_tick + i.n - 1, tails[i.n]), fingerprints[i.n],
                   tick_to_timestamp(first_tick + i.n - 1)
            from generate_series(1, n) as i (n) where keys[i.n] is not null;
        exception when unique_violation then
            all_new := false;
        end;
    end if;
    if all_new then
        return query
        insert into event (id, position, event_type, source, payload, created_at)
        select make_event_id(first_tick + i.n - 1, tails[i.n]), first_position + i.n - 1,
               event_types[i.n], sources[i.n], payloads[i.n], tick_to_timestamp(first_tick + i.n - 1)
        from generate_series(1, n) as i (n)
        returning position - first_position + 1, 'created', id, created_at;
        return;
    end if;

    -- A key was known, or comes twice. The limit keeps this a look-up in the index, whenever it is planned.
    return query
    with input as (
        select i.n as ord, sources[i.n] as source, keys[i.n] as key, fingerprints[i.n] as fingerprint,
               make_event_id(first_tick + i.n - 1, tails[i.n]) as id,
               tick_to_timestamp(first_tick + i.n - 1) as tick,
               case when keys[i.n] is null then i.n
                    else min(i.n) over (partition by sources[i.n], keys[i.n]) end as leader,
               k.event_id as first_id, k.fingerprint as first_fingerprint, k.created_at as first_at
        from generate_series(1, n) as i (n)
        left join lateral (
            select * from idempotency_key where source = sources[i.n] and key = keys[i.n] limit 1
        ) k on true
    ), fresh as (
        select * from input where leader = ord and first_id is null
    ), inserted as (
        insert into event (id, position, event_type, source, payload, created_at)
        select f.id, first_position + f.ord - 1, event_types[f.ord], f.source, payloads[f.ord], f.tick
        from fresh f order by f.ord
    ), keyed as (
        insert into idempotency_key (source, key, event_id, fingerprint, created_at)
        select f.source, f.key, f.id, f.fingerprint, f.tick from fresh f where f.key is not null
    )
    select i.ord,
           case when i.leader = i.ord and i.first_id is null then 'created'
                when coalesce(i.first_fingerprint, l.fingerprint) = i.fingerprint then 'duplicate'
                else 'conflict' end,
           coalesce(i.first_id, l.id),
           coalesce(i.first_at, l.tick)
    from input i join input l on l.ord = i.leader
    order by i.ord;
end
$$;
