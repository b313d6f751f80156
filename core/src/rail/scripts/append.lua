-- Compare-and-append: adds entries to a feed's stream only if its tail is the one that the relay expects.
-- KEYS: stream, tail (position and event id of the last entry, checked against the log by the relay)
-- ARGV: expected tail's position, or "new" for a stream that must not exist yet; most entries that the
--       stream may hold; then position, event id and targets of each entry
-- Answers {"appended" | "full" | "refused" | "missing", tail's position, length}.
local expected, window = ARGV[1], tonumber(ARGV[2])
local tail, length, groups = nil, 0, 0
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if not info.err then
  for i = 1, #info, 2 do
    if info[i] == 'length' then length = info[i + 1]
    elseif info[i] == 'last-generated-id' then tail = string.match(info[i + 1], '^%d+')
    elseif info[i] == 'groups' then groups = info[i + 1] end
  end
end
if expected == 'new' then
  if tail then return {'refused', tail, length} end
else
  if not tail then return {'missing', '0', 0} end
  if tail ~= expected then return {'refused', tail, length} end
end
if length >= window then return {'full', tail, length} end
if groups == 0 then redis.call('XGROUP', 'CREATE', KEYS[1], 'eventrail', '0', 'MKSTREAM') end
local last = #ARGV - 2
for i = 3, last, 3 do
  redis.call('XADD', KEYS[1], ARGV[i] .. '-0', 'event', ARGV[i + 1], 'targets', ARGV[i + 2])
end
redis.call('SET', KEYS[2], ARGV[last] .. ' ' .. ARGV[last + 1])
return {'appended', ARGV[last], length + (#ARGV - 2) / 3}
