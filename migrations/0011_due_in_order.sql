-- Of one instant there may be any number of deliveries that wait: enabling an endpoint makes all of its own due at
-- once. With their keys in the index too, whoever reads them in parts goes on after the last one.
drop index delivery_due;
create index delivery_due on delivery (next_attempt_at, event_id, endpoint_id) where status in ('pending', 'retrying');
