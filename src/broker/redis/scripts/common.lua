-- The identities of entries are `0-` and their number, which Redis counts from 1 on.

-- What an entry of a stream takes beside its name and payload.
local OVERHEAD = 64

-- Whether somebody has deleted the stream that the notices stand in. Its numbers would begin anew.
local function is_lost(events, state)
  return redis.call('EXISTS', events) == 0 and redis.call('HEXISTS', state, 'notice_at') == 1
end

-- The time of the server, in Unix milliseconds.
local function now_ms()
  local now = redis.call('TIME')
  return string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
end

-- Appends an entry to the stream that all gateways follow. Returns its number, the time, and its size.
local function append(events, state, name, payload)
  local ms = now_ms()
  local size = #name + #payload + OVERHEAD
  local total = redis.call('HINCRBY', state, 'total', size)
  local id = redis.call('XADD', events, '0-*', 'n', name, 'p', payload, 't', ms, 'b', total)
  return string.sub(id, 3), ms, size, total
end

-- Lets the oldest entries go beyond so many bytes. The entries say how many bytes came up to them; those in between are
-- taken for equally long, so the next calls correct what this one leaves.
local function trim(events, total, bytes_max)
  local first = redis.call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  local bytes = total - first[2][8]
  if bytes > bytes_max then
    local count = redis.call('XLEN', events)
    local goes = math.min(math.ceil(count * (bytes - bytes_max) / bytes), count - 1)
    redis.call('XTRIM', events, 'MINID', '0-' .. string.format('%.0f', string.sub(first[1], 3) + goes))
  end
end
