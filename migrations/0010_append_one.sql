-- As before, but an event that comes alone takes a short way: where producers post one by one and seldom, each is a
-- commit of its own, and most of its cost was the plan for many.
create or replace function append_events(
    event_types text[], sources text[], payloads bytea[], keys text[], fingerprints bytea[]
) returns table (ordinal bigint, status text, event_id uuid, at timestamptz)
language plpgsql volatile as $$
declare
    n              bigint := cardinality(event_types);
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
        event_id := make_event_id(first_tick);
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
