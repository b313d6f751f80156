-- What the relay looks for once a second is found by itself, however much there is beside it.

-- What waits of a replay: that of a cancelled one is ended.
create index delivery_waits_of_replay on delivery (replay_id, event_id)
    where replay_id is not null and status in ('pending', 'retrying');
create index replay_cancelled_at on replay (cancelled_at) where cancelled_at is not null;
create index feed_closed on feed (id) where status = 'closed';
create index feed_finished_at on feed (finished_at) where finished_at is not null;
