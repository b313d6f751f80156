-- Who listens: consumer groups, their endpoints, the intervals of the log in which each is subscribed,
-- and the feeds that carry the log to them. All of it changes under the log lock, with `topology.version`
-- raised in the same transaction, so that a relay that sees an event also sees every change before it.

create table topology (
    only_row boolean primary key default true constraint topology_is_one_row check (only_row),
    version  bigint not null default 0
);
insert into topology default values;

create table consumer_group (
    id          bigint generated always as identity primary key,
    name        text not null constraint consumer_group_name_grammar check (name ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
    description text not null default '',
    retry       jsonb,
    paused_at   timestamptz,
    created_at  timestamptz not null default now(),
    deleted_at  timestamptz
);
create unique index consumer_group_name_key on consumer_group (name) where deleted_at is null;

create table endpoint (
    id              uuid primary key,
    group_id        bigint not null references consumer_group,
    url             text not null,
    description     text not null default '',
    headers         jsonb not null default '{}',
    timeout_ms      int constraint endpoint_timeout_range check (timeout_ms between 100 and 60000),
    max_in_flight   int constraint endpoint_max_in_flight_range check (max_in_flight between 1 and 10000),
    retry           jsonb,
    status          text not null default 'active'
                    constraint endpoint_status_known check (status in ('active', 'disabled', 'deleted')),
    disabled_reason text constraint endpoint_disabled_reason_known check (disabled_reason in ('manual', 'gone', 'failing')),
    version         bigint not null,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint endpoint_disabled_has_reason check ((status = 'disabled') = (disabled_reason is not null))
);
create unique index endpoint_url_key on endpoint (group_id, url) where status <> 'deleted';
create index endpoint_version on endpoint (version);

create table endpoint_secret (
    id          bigint generated always as identity primary key,
    endpoint_id uuid not null references endpoint,
    secret      bytea not null constraint endpoint_secret_length check (length(secret) between 24 and 64),
    created_at  timestamptz not null default now(),
    expires_at  timestamptz
);
create index endpoint_secret_endpoint_id on endpoint_secret (endpoint_id);

-- An endpoint is owed the events with `from_position < position <= to_position` that its filter matches.
-- Rows never change but for being closed, so that who is owed an event is a fact of the log.
create table subscription (
    id            bigint generated always as identity primary key,
    endpoint_id   uuid not null references endpoint,
    from_position bigint not null,
    to_position   bigint,
    event_types   text[] not null default '{}',
    sources       text[] not null default '{}',
    constraint subscription_interval check (to_position >= from_position)
);
create unique index subscription_one_open on subscription (endpoint_id) where to_position is null;

-- A feed is a cursor over the log that the relay copies into one Redis stream of one group.
-- `settled_position`: every event at or below it is settled for this feed.
-- `ask` orders intentions: a delivery belongs to the highest ask that touched it.
create table feed (
    id               bigint generated always as identity primary key,
    group_id         bigint not null references consumer_group,
    kind             text not null constraint feed_kind_known check (kind in ('live', 'catch_up')),
    epoch            bigint not null default 0,
    ask              bigint not null,
    endpoint_id      uuid references endpoint,
    from_position    bigint not null,
    to_position      bigint,
    settled_position bigint not null,
    status           text not null default 'active'
                     constraint feed_status_known check (status in ('active', 'done', 'closed')),
    created_at       timestamptz not null default now(),
    finished_at      timestamptz,
    constraint feed_live_has_no_end check ((kind = 'live') = (to_position is null)),
    constraint feed_catch_up_has_endpoint check ((kind = 'catch_up') = (endpoint_id is not null)),
    constraint feed_settled_after_start check (settled_position >= from_position)
);
create unique index feed_one_live on feed (group_id) where kind = 'live' and status = 'active';
create index feed_active on feed (group_id) where status = 'active';

-- From `from_position` on (exclusive) the live feed leaves this endpoint out; once it is closed, a
-- catch-up feed over `(from_position, to_position]` brings what it missed.
create table parked (
    id            bigint generated always as identity primary key,
    feed_id       bigint not null references feed,
    endpoint_id   uuid not null references endpoint,
    from_position bigint not null,
    to_position   bigint,
    reason        text not null constraint parked_reason_known check (reason in ('deferred', 'disabled', 'start')),
    created_at    timestamptz not null default now(),
    closed_at     timestamptz,
    constraint parked_interval check (to_position >= from_position)
);
create unique index parked_one_open on parked (endpoint_id) where to_position is null;

-- One row: the relay that leads. The election is an optimisation; two at once are harmless.
create table relay_lease (
    only_row   boolean primary key default true constraint relay_lease_is_one_row check (only_row),
    holder     text not null,
    expires_at timestamptz not null
);

create function raise_topology_version() returns bigint language sql volatile as $$
    update topology set version = version + 1 returning version
$$;

-- Creates a group with its live feed from the end of the log; returns the group's id.
create function create_group(name text, description text, retry jsonb) returns bigint
language plpgsql volatile as $$
declare
    new_id   bigint;
    here     bigint;
    epochs   bigint;
begin
    perform lock_log();
    insert into consumer_group (name, description, retry)
        values (create_group.name, create_group.description, create_group.retry) returning id into new_id;
    here := draw_positions(1);
    -- A deleted group of the same name may have left its stream behind: begin after its last epoch.
    select coalesce(max(f.epoch) + 1, 0) into epochs
        from feed f join consumer_group g on g.id = f.group_id
        where g.name = create_group.name and f.kind = 'live';
    insert into feed (group_id, kind, epoch, ask, from_position, settled_position)
        values (new_id, 'live', epochs, here, here, here);
    perform raise_topology_version();
    return new_id;
end
$$;

select create_group('default', 'The group that exists from the start.', null);
