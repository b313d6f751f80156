-- Removes a consumer that holds nothing. XGROUP DELCONSUMER alone would strand what it holds.
-- KEYS: stream.  ARGV: consumer
local held = redis.pcall('XPENDING', KEYS[1], 'eventrail', '-', '+', 1, ARGV[1])
if held.err or #held > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'eventrail', ARGV[1])
return 1
