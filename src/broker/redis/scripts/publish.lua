-- Appends a batch, if the caller knows the newest term. Returns the number of each entry: negative if it is a duplicate of
-- an earlier one, and 0 if it is a merged value, which is stored in the place of the last one.
--
-- KEYS: events, kept, state, merged. ARGV: what all keys begin with, the term, the most bytes of `kept` and of `events`, the milliseconds for
-- which ids are remembered; and for each entry its kind and name, its payload, how many entries of its channel are kept, and
-- its id or ''.
local events, kept, state, merged, prefix = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
if redis.call('HGET', state, 'term') ~= ARGV[2] then
  return redis.error_reply('TERM another term has begun')
end
if is_lost(events, state) then
  return redis.error_reply('TERM the stream of events was deleted')
end
local kept_max, events_max, id_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local bytes, floor = tonumber(redis.call('HGET', state, 'bytes') or 0), nil
local numbers, total = {}, nil

-- The oldest entry of a channel leaves what is kept. Returns whether there was one.
local function forget(list)
  local oldest = redis.call('LPOP', list, 2)
  if oldest then
    redis.call('XDEL', kept, '0-' .. oldest[1])
    bytes = bytes - oldest[2]
  end
  return oldest
end

for at = 6, #ARGV, 4 do
  local name, payload, keep, id = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  local list = prefix .. ':keep:' .. string.sub(name, 2)
  local known = id ~= '' and redis.call('GET', prefix .. ':id:' .. id)
  if known then
    numbers[#numbers + 1] = -known
  elseif string.sub(name, 1, 1) == 'v' then
    redis.call('HSET', merged, string.sub(name, 2), now_ms() .. '\n' .. payload)
    numbers[#numbers + 1] = 0
  else
    local number, ms, size
    number, ms, size, total = append(events, state, name, payload)
    numbers[#numbers + 1] = tonumber(number)
    if id ~= '' then
      redis.call('SET', prefix .. ':id:' .. id, number, 'PX', id_ms)
    end
    if keep > 0 then
      redis.call('XADD', kept, '0-' .. number, 'n', name, 'p', payload, 't', ms)
      bytes = bytes + size
      local excess = redis.call('RPUSH', list, number, size) / 2 - keep
      for _ = 1, excess do
        forget(list)
      end
    end
  end
end
-- Beyond the bytes, the oldest entries of all channels go.
for _ = 1, 1000 do
  if bytes <= kept_max then
    break
  end
  local oldest = redis.call('XRANGE', kept, '-', '+', 'COUNT', 1)[1]
  if not oldest then
    bytes = 0
    break
  end
  floor = string.sub(oldest[1], 3)
  if not forget(prefix .. ':keep:' .. string.sub(oldest[2][2], 2)) then
    redis.call('XDEL', kept, oldest[1])
  end
end
redis.call('HSET', state, 'bytes', bytes)
if floor then
  redis.call('HSET', state, 'floor', floor)
end
if total then
  trim(events, total, events_max)
end
return numbers
