-- Changes a claim, if it has the version that the caller knows: puts a text in its place, or gives it up. Returns whether it
-- had this version, and its new version or the claim that holds.
--
-- Claims that nobody has changed for a while are forgotten, a hundred in one call. Beyond the bytes a text is refused.
--
-- KEYS: the claims, when they were changed. ARGV: the name, the version or 0 if there must be no claim, the text or '' to give
-- the claim up, the most bytes of all claims, the microseconds for which one is kept.
local claims, changed, name = KEYS[1], KEYS[2], ARGV[1]
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

local before = string.format('%.0f', now_us - ARGV[5])
for _, old in ipairs(redis.call('ZRANGEBYSCORE', changed, '-inf', before, 'LIMIT', 0, 100)) do
  forget(old, redis.call('HGET', claims, old) or '')
end

local held = redis.call('HGET', claims, name)
if (held and string.match(held, '^%d+') or '0') ~= ARGV[2] then
  return { 0, held or '' }
end
if ARGV[3] == '' then
  if held then
    forget(name, held)
  end
  return { 1, ARGV[2] }
end
-- Versions are times, so that they grow also if the server has lost the newest ones.
local newest = redis.call('HGET', claims, ':version') or 0
local version = string.format('%.0f', math.max(now_us, newest + 1))
local stored = version .. '\n' .. ARGV[3]
local more = size(name, stored) - (held and size(name, held) or 0)
if (redis.call('HGET', claims, ':bytes') or 0) + more > tonumber(ARGV[4]) then
  return redis.error_reply('FULL the claims hold as many bytes as they may')
end
redis.call('HSET', claims, name, stored, ':version', version)
redis.call('HINCRBY', claims, ':bytes', more)
redis.call('ZADD', changed, now_us, name)
return { 1, version }
