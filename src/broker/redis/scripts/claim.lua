-- Changes a claim, if it has the version that the caller knows: puts a text in its place, or gives it up. Returns whether it
-- had this version, and its new version or the claim that holds.
--
-- Claims that nobody has changed for a while are forgotten, a hundred in one call. Beyond the bytes a text is refused.
--
-- KEYS: the claims, when they were changed. ARGV: the most bytes of all claims, the microseconds for which one is kept, the name,
-- the version or 0 if there must be no claim, and the text, without which the claim is given up.
local claims, changed, bytes_max, kept_us, name, known, text = KEYS[1], KEYS[2], unpack(ARGV)
local now = redis.call('TIME')
local now_us = now[1] * 1000000 + now[2]

local function size(of, stored)
  return #of + #stored + OVERHEAD
end

local function forget(of, stored)
  redis.call('HDEL', claims, of)
  redis.call('ZREM', changed, of)
  redis.call('HINCRBY', claims, ':bytes', -size(of, stored))
end

local before = string.format('%.0f', now_us - kept_us)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', changed, '-inf', before, 'LIMIT', 0, 100)) do
  forget(old, redis.call('HGET', claims, old) or '')
end

local held = redis.call('HGET', claims, name)
if (held and string.match(held, '^%d+') or '0') ~= known then
  return { 0, held or '' }
end
if not text then
  if held then
    forget(name, held)
  end
  return { 1, known }
end
-- Versions are times, so that they grow also if the server has lost the newest ones.
local newest = redis.call('HGET', claims, ':version') or 0
local version = string.format('%.0f', math.max(now_us, newest + 1))
local stored = version .. '\n' .. text
local more = size(name, stored) - (held and size(name, held) or 0)
if (redis.call('HGET', claims, ':bytes') or 0) + more > tonumber(bytes_max) then
  return redis.error_reply('FULL the claims hold as many bytes as they may')
end
redis.call('HSET', claims, name, stored, ':version', version)
redis.call('HINCRBY', claims, ':bytes', more)
redis.call('ZADD', changed, now_us, name)
return { 1, version }
