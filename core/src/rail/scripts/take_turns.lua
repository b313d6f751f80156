-- A rate shared by all dispatchers (generic cell rate algorithm): hands out up to `want` turns.
-- KEYS: rate.  ARGV: turns per second, burst, want
-- Answers {turns granted, microseconds until the next one}.
local rate, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval = 1000000 / rate
local next_turn = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
local granted = math.min(want, math.floor((now + burst * interval - next_turn) / interval))
if granted <= 0 then
  return {0, math.ceil(next_turn - now - (burst - 1) * interval)}
end
next_turn = next_turn + granted * interval
redis.call('SET', KEYS[1], string.format('%.0f', next_turn), 'PX', math.ceil((next_turn - now) / 1000) + 1000)
return {granted, math.max(0, math.ceil(next_turn - now - (burst - 1) * interval))}
