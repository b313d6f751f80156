-- What happened: one row for each event owed to an endpoint, from its first outcome on, and one for
-- each HTTP request made for it. Partitioned by the event's day like the log, so that retention drops
-- all three together.

create table delivery (
    event_id         uuid        not null,
    endpoint_id      uuid        not null,
    group_id         bigint      not null,
    feed_id          bigint      not null,
    ask              bigint      not null,
    status           text        not null constraint delivery_status_known
                                 check (status in ('pending', 'retrying', 'delivered', 'dead')),
    attempt_count    int         not null, -- attempts of this ask
    attempt_total    int         not null, -- attempts of all asks: the number of the last one
    next_attempt_at  timestamptz,
    last_status_code int,
    last_error       text,
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    constraint delivery_pkey primary key (event_id, endpoint_id),
    constraint delivery_waits_for_a_time check ((status in ('pending', 'retrying')) = (next_attempt_at is not null)),
    constraint delivery_counts check (attempt_count between 0 and attempt_total)
) partition by range (event_id);
create index delivery_due on delivery (next_attempt_at) where status in ('pending', 'retrying');
create index delivery_waiting on delivery (endpoint_id, status) where status in ('pending', 'retrying');
create index delivery_dead on delivery (group_id, updated_at) where status = 'dead';

create table attempt (
    event_id      uuid        not null,
    endpoint_id   uuid        not null,
    number        int         not null,
    ask           bigint      not null,
    started_at    timestamptz not null,
    duration_ms   int         not null,
    status_code   int,
    error         text        constraint attempt_error_known check (error in
                  ('dns', 'egress_denied', 'connect', 'tls', 'timeout', 'reset', 'protocol', 'status')),
    error_detail  text,
    response_body bytea,
    trigger       text        not null constraint attempt_trigger_known
                              check (trigger in ('feed', 'retry', 'catch_up')),
    constraint attempt_pkey primary key (event_id, endpoint_id, number)
) partition by range (event_id);

create table event_default partition of event default;
create table delivery_default partition of delivery default;
create table attempt_default partition of attempt default;

select make_partitions(7);
