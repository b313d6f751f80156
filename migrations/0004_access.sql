-- Who may ask, who asked, and what the lists and figures of the API are read from.

-- Only the hash of a key is kept: it is 32 random bytes, so one round of SHA-256 is enough.
-- `sources`: what a producer may send and read, none for all. `groups`: where a subscriber is at home.
create table api_key (
    id              uuid primary key,
    name            text not null,
    role            text not null constraint api_key_role_known check (role in ('producer', 'subscriber', 'operator')),
    groups          text[] not null default '{}',
    sources         text[] not null default '{}',
    rate_per_second int constraint api_key_rate_range check (rate_per_second between 1 and 100000),
    hash            bytea not null constraint api_key_hash_length check (length(hash) = 32),
    prefix          text not null, -- the first characters of the key, by which people know it again
    created_at      timestamptz not null default now(),
    expires_at      timestamptz,
    revoked_at      timestamptz,
    constraint api_key_subscriber_has_groups check ((role = 'subscriber') = (cardinality(groups) > 0)),
    constraint api_key_only_producers_have_sources check (role = 'producer' or cardinality(sources) = 0)
);
create unique index api_key_hash on api_key (hash);

-- Every change that was asked for over HTTP, written in the transaction of the change itself.
-- `actor`: the key's id, `admin` (ADMIN_TOKEN) or `anonymous` (an API that is open). `detail` holds no secrets.
create table audit_log (
    id      bigint generated always as identity primary key,
    at      timestamptz not null default now(),
    actor   text not null,
    action  text not null, -- the operation's id
    subject text not null, -- what it changed: a path of names and ids
    address text not null,
    detail  jsonb not null default '{}'
);

-- Types and sources that were seen together. Fed in the background; not part of the record.
create table event_kind (
    event_type text not null,
    source     text not null,
    last_at    timestamptz not null,
    constraint event_kind_pkey primary key (event_type, source)
);

-- Dispatchers that run. Each touches its row every two seconds.
create table dispatcher (
    name    text primary key,
    seen_at timestamptz not null
);

alter table endpoint
    add column rate_per_second int constraint endpoint_rate_range check (rate_per_second between 1 and 100000),
    add column auth bytea; -- sealed credentials for the receiver

-- Secrets are sealed from here on, and longer than what they hold.
alter table endpoint_secret drop constraint endpoint_secret_length;

-- What lies in a skipped interval is not brought by a catch-up: somebody chose to do without it.
alter table parked add column skipped boolean not null default false;
create index parked_endpoint_id on parked (endpoint_id, from_position);

create index subscription_endpoint_id on subscription (endpoint_id, from_position);
create index delivery_of_group on delivery (group_id, event_id desc, endpoint_id desc);
create index delivery_waits on delivery (group_id, status) where status in ('pending', 'retrying');

-- Whether a filter matches: `core::matching::Filter::matches`, for lists that only SQL can cut to size.
create function filter_matches(event_types text[], sources text[], event_type text, source text)
returns boolean language sql immutable parallel safe as $$
    select (cardinality(sources) = 0 or source = any (sources))
       and case when split_part(event_type, '.', 1) = 'eventrail'
           then exists (select from unnest(event_types) p where p = event_type
                        or p like '%.*' and split_part(p, '.', 1) = 'eventrail'
                           and starts_with(event_type, left(p, -1)))
           else cardinality(event_types) = 0
             or exists (select from unnest(event_types) p where p = '*' or p = event_type
                        or p like '%.*' and starts_with(event_type, left(p, -1)))
           end
$$;
