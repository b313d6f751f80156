-- What keeps itself in order: EventRail's own events on the log, endpoints that fail for days, and days of the
-- log that have had their time.

create function make_event_id(tick bigint) returns uuid language sql volatile as $$
    select (lpad(to_hex(tick / 1000), 12, '0') || '7' || lpad(to_hex(tick % 1000), 3, '0')
            || substr(gen_random_uuid()::text, 20))::uuid
$$;

-- Appends operational events, given as columns; each concerns one group. They are drawn as those of
-- `append_events` are. Only for holders of the log lock.
create function append_operational(event_types text[], group_ids bigint[], payloads text[]) returns void
language plpgsql volatile as $$
declare
    n              bigint := cardinality(event_types);
    first_position bigint;
    first_tick     bigint;
begin
    if n = 0 then
        return;
    end if;
    first_position := draw_positions(n);
    first_tick := draw_ticks(n);
    insert into event (id, position, event_type, source, payload, created_at, group_id)
    select make_event_id(first_tick + i.n - 1), first_position + i.n - 1, i.event_type, 'eventrail',
           convert_to(i.payload, 'UTF8'), tick_to_timestamp(first_tick + i.n - 1), i.group_id
    from unnest(event_types, group_ids, payloads) with ordinality as i (event_type, group_id, payload, n)
    order by i.n;
end
$$;

-- Endpoints that only fail, as far as the dispatchers have noted. `noted`: how often, at most once in each of
-- their periods, so that two failures with days of silence between them are not taken for days of failure.
create table endpoint_health (
    endpoint_id     uuid primary key references endpoint,
    failing_since   timestamptz not null,
    last_failure_at timestamptz not null,
    noted           int not null default 1,
    constraint endpoint_health_order check (last_failure_at >= failing_since)
);

-- Deliveries that were still owed when their day was dropped all the same: for each feed and endpoint, how many
-- of the events in `(from_position, to_position]`.
create table expired (
    id            bigint generated always as identity primary key,
    feed_id       bigint not null,
    endpoint_id   uuid not null references endpoint,
    from_position bigint not null,
    to_position   bigint not null,
    events        bigint not null constraint expired_counts check (events > 0),
    reason        text not null default 'expired' constraint expired_reason_known check (reason in ('expired')),
    at            timestamptz not null default now(),
    constraint expired_interval check (to_position > from_position)
);
create index expired_endpoint_id on expired (endpoint_id);

-- The day on which the group was last told that it holds up retention.
alter table consumer_group add column held_noted_on date;

create function day_floor(day date) returns uuid language sql immutable as $$
    select id_floor(day::timestamp at time zone 'utc')
$$;

-- Days of the log before `cutoff`, oldest first. Those in the default partition are answered one at a time.
create function days_before(cutoff date) returns setof date language sql stable as $$
    select to_date(right(c.relname, 8), 'YYYYMMDD') as day
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'event'::regclass and c.relname ~ '^event_[0-9]{8}$'
      and to_date(right(c.relname, 8), 'YYYYMMDD') < cutoff
    union
    (select (created_at at time zone 'utc')::date from event_default
     where id < day_floor(cutoff) order by id limit 1)
    order by day
$$;

-- The groups that are still owed something of a day: by a feed that has not come past it, by an interval of a
-- parked endpoint, or by a delivery that waits.
create function groups_owed(day date) returns setof bigint language plpgsql stable as $$
declare
    first_position bigint;
    last_position  bigint;
begin
    select e.position into first_position from event e
        where e.id >= day_floor(day) and e.id < day_floor(day + 1) order by e.position limit 1;
    select e.position into last_position from event e
        where e.id >= day_floor(day) and e.id < day_floor(day + 1) order by e.position desc limit 1;
    return query
    select f.group_id from feed f
    where f.status = 'active' and f.settled_position < last_position
      and (f.to_position is null or f.to_position >= first_position)
    union
    -- A closed interval is owed by its catch-up feed.
    select e.group_id from parked p join endpoint e on e.id = p.endpoint_id
    where p.to_position is null and e.status <> 'deleted' and p.from_position < last_position
    union
    select d.group_id from delivery d
    where d.event_id >= day_floor(day) and d.event_id < day_floor(day + 1)
      and d.status in ('pending', 'retrying');
end
$$;

-- The position of the oldest event that there is; of an empty log, where it stands.
create function log_floor() returns bigint language sql stable as $$
    select coalesce((select position from event order by position limit 1),
                    (select last_value from log_position))
$$;

-- Drops a day of the log with its deliveries and attempts. Its rows in the default partitions, if it has any
-- there, are deleted.
create function drop_day(day date) returns void language plpgsql as $$
declare
    t text;
begin
    foreach t in array array['attempt', 'delivery', 'event'] loop
        execute format('drop table if exists %I', t || '_' || to_char(day, 'YYYYMMDD'));
    end loop;
    delete from attempt_default a where a.event_id >= day_floor(day) and a.event_id < day_floor(day + 1);
    delete from delivery_default d where d.event_id >= day_floor(day) and d.event_id < day_floor(day + 1);
    delete from event_default e where e.id >= day_floor(day) and e.id < day_floor(day + 1);
end
$$;

-- As before, but: a day of which the default partition holds rows (nobody made its partition in time) stays
-- there, and keeps no later day from its partition; and nobody is kept waiting for a lock on the log.
create or replace function make_partitions(days int) returns int language plpgsql
set lock_timeout = '300ms' as $$
declare
    made  int := 0;
    day   date;
    child text;
    t     text;
begin
    perform pg_advisory_xact_lock(5495127463921473);
    for d in -1 .. days loop
        day := (clock_timestamp() at time zone 'utc')::date + d;
        continue when exists (select from event_default where id >= day_floor(day) and id < day_floor(day + 1))
            or exists (select from delivery_default
                       where event_id >= day_floor(day) and event_id < day_floor(day + 1));
        foreach t in array array['event', 'delivery', 'attempt'] loop
            child := t || '_' || to_char(day, 'YYYYMMDD');
            if to_regclass(child) is null then
                execute format('create table %I partition of %I for values from (%L) to (%L)', child, t,
                    day_floor(day), day_floor(day + 1));
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end
$$;
