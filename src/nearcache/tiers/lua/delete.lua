-- Unlink values and drop their leases.
-- KEYS     a key, its lease, the next key, its lease, …
-- ARGV[1]  the namespace's version
-- returns  how many of the values were valid and not expired
local counted = 0
for i = 1, #KEYS, 2 do
  if live(KEYS[i], ARGV[1]) then counted = counted + 1 end
  redis.call('UNLINK', KEYS[i], KEYS[i + 1])
end
return counted
