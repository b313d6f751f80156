-- What operators ask for: replays of a window, redrives of dead letters, resets of a group's cursor.
--
-- Each is made of feeds: a replay or redrive of one feed for each endpoint, so that a slow endpoint holds up
-- nobody else's; a reset is the live feed itself in a new epoch. A feed that goes back addresses, up to its
-- `as_of_position`, the endpoints and filters of that moment.

create table replay (
    id              uuid primary key,
    kind            text not null constraint replay_kind_known check (kind in ('replay', 'redrive')),
    group_name      text not null, -- or `*`, all groups
    endpoint_id     uuid,
    event_type      text, -- a pattern
    source          text,
    error           text, -- of the dead letters: their fingerprint
    from_at         timestamptz,
    to_at           timestamptz,
    event_limit     bigint,
    only_missing    boolean not null default false,
    rate_per_second int constraint replay_rate_range check (rate_per_second between 1 and 100000),
    ask             bigint not null,
    matched         bigint not null, -- events (of a redrive: dead letters)
    owed            bigint not null, -- deliveries, over all endpoints
    -- Up to these positions events and deliveries were counted, and how many there were: progress is read again
    -- and again, and each reading counts on from the one before.
    published_to    bigint not null,
    published       bigint not null default 0,
    settled_to      bigint not null,
    settled         bigint not null default 0,
    created_at      timestamptz not null default now(),
    cancelled_at    timestamptz,
    finished_at     timestamptz
);
create index replay_created_at on replay (created_at desc);

-- `resend_id`: receivers see it as `eventrail-replay` wherever something may be sent again on purpose.
-- `only_missing`: up to `as_of_position`, what was delivered before is left out.
-- `scanned_position`: up to here the relay has read the log for it; for those who watch.
alter table feed
    drop constraint feed_kind_known,
    drop constraint feed_catch_up_has_endpoint,
    add column replay_id uuid references replay,
    add column as_of_position bigint,
    add column resend_id uuid,
    add column only_missing boolean not null default false,
    add column scanned_position bigint not null default 0,
    add constraint feed_kind_known check (kind in ('live', 'catch_up', 'replay', 'redrive')),
    add constraint feed_but_live_has_endpoint check ((kind <> 'live') = (endpoint_id is not null)),
    add constraint feed_belongs_to_replay check ((kind in ('replay', 'redrive')) = (replay_id is not null));
create index feed_of_replay on feed (replay_id) where replay_id is not null;

-- An interval that a cursor reset has skipped.
alter table parked
    drop constraint parked_reason_known,
    add constraint parked_reason_known check (reason in ('deferred', 'disabled', 'start', 'cursor'));

-- `replay_id`: the replay or redrive that the row's ask belongs to.
-- `purged_at`: the dead letter was put away; the row stays, for something was owed and is settled.
alter table delivery
    add column replay_id uuid,
    add column purged_at timestamptz;
create index delivery_of_replay on delivery (replay_id, event_id, status) where replay_id is not null;
drop index delivery_dead;
create index delivery_dead on delivery (group_id, event_id, endpoint_id)
    where status = 'dead' and purged_at is null;
create index delivery_dead_of_endpoint on delivery (endpoint_id, event_id)
    where status = 'dead' and purged_at is null;

-- Dead letters are told apart by this: the status code of the last answer, or the kind of error.
create function fingerprint(last_error text, last_status_code int) returns text
language sql immutable parallel safe as $$
    select case when last_error = 'status' then last_status_code::text else coalesce(last_error, 'unknown') end
$$;

alter table attempt
    drop constraint attempt_trigger_known,
    add constraint attempt_trigger_known
        check (trigger in ('feed', 'retry', 'catch_up', 'replay', 'redrive'));

-- An operational event concerns one group, and is owed to nobody else.
alter table event add column group_id bigint;

-- Endpoints whose breaker is open, as this dispatcher sees them.
alter table dispatcher add column open_breakers uuid[] not null default '{}';
