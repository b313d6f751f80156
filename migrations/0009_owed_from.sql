-- Going back takes nothing from anybody. Up to its `as_of_position` a feed that goes back addresses those who were
-- subscribed at that very position; what it had not settled when it went back is also still owed to those who were
-- subscribed when the event was accepted.

-- `owed_from`: above it the latter are addressed too. It is the settled position that the feed had when it last went
-- back; null for one that never did, and for replays, which owe nothing but what they were asked for.
alter table feed add column owed_from bigint;

-- The same for what an endpoint misses while it is parked, of which the interval's own start tells no more once it was
-- moved back into history. Null where it never was, nor the live feed before.
alter table parked add column owed_from bigint;
