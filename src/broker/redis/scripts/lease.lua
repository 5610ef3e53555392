-- Replaces the lease, if it still has the number that the caller knows. Returns the number of the new one, or 0.
--
-- KEYS: the lease, state. ARGV: the number; 0: there is none.
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then
  return 0
end
local number = redis.call('HINCRBY', KEYS[2], 'leases', 1)
redis.call('SET', KEYS[1], number)
return number
