-- Leases due retries: their score becomes the end of the lease, so that a dispatcher that dies gives
-- them back by doing nothing.
-- The time is the caller's, which is what the scores were written by: Redis has a clock of its own.
-- KEYS: retry ZSET.  ARGV: most to claim, lease in milliseconds, time in milliseconds since 1970
-- Answers {claimed members, milliseconds until the next one is due or -1}.
local now = tonumber(ARGV[3])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
  redis.call('ZADD', KEYS[1], now + ARGV[2], member)
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local wait = -1
if first[2] then wait = math.max(0, first[2] - now) end
return {due, wait}
