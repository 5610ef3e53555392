-- Writes a notice, if the newest one has the number that the caller knows. Returns the number of the newest notice, its
-- time, and whether it is this one.
--
-- KEYS: events, state. ARGV: the number of the newest notice or 0, the most bytes of `events`, the term, the notice.
local events, state = KEYS[1], KEYS[2]
local newest = redis.call('HGET', state, 'notice_at') or '0'
if newest ~= ARGV[1] then
  return { tonumber(newest), 0, 0 }
end
if is_lost(events, state) then
  return redis.error_reply('TERM the stream of events was deleted')
end
local number, ms, _, total = append(events, state, 't', ARGV[4])
redis.call('HSET', state, 'notice_at', number, 'notice_ms', ms, 'notice', ARGV[4], 'term', ARGV[3])
trim(events, total, tonumber(ARGV[2]))
return { tonumber(number), tonumber(ms), 1 }
