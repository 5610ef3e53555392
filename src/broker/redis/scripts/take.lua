-- Deletes a key if it still has the value that the caller has read. Returns whether it has.
--
-- KEYS: the key. ARGV: the value.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
