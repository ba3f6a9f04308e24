-- Give a value a new time to live, and drop the lease of its key.
-- KEYS[1]  the key   KEYS[2]  its lease
-- ARGV[1]  the namespace's version   ARGV[2]  milliseconds from now without the value's grace, '' for no expiry
-- returns  1, or 0 when there is no value that is valid and not expired
-- The lease goes in any case: a load that began before must not fill in what was to expire.
redis.call('UNLINK', KEYS[2])
local there, grace = live(KEYS[1], ARGV[1])
if not there then return 0 end
if ARGV[2] == '' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(ARGV[2]) + grace))
end
return 1
