-- Where a feed's stream stands, in one snapshot.
-- KEYS: stream, tail
-- Answers nil for no stream, else {tail's position, length, first entry's position or "", tail record or ""}.
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return false end
local tail, length, first = '0', 0, ''
for i = 1, #info, 2 do
  if info[i] == 'length' then length = info[i + 1]
  elseif info[i] == 'last-generated-id' then tail = string.match(info[i + 1], '^%d+')
  elseif info[i] == 'groups' and info[i + 1] == 0 then redis.call('XGROUP', 'CREATE', KEYS[1], 'eventrail', '0')
  elseif info[i] == 'first-entry' and info[i + 1] then first = string.match(info[i + 1][1], '^%d+') end
end
return {tail, length, first, redis.call('GET', KEYS[2]) or ''}
