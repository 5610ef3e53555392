-- Stores a fact. Returns 0 if there is no room for another one.
--
-- KEYS: control. ARGV: the most facts, the name, the fact.
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[1]) and redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
