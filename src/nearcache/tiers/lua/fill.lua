-- Store a value and drop the lease of its key.
-- KEYS[1]  the key   KEYS[2]  its lease
-- ARGV[1]  the caller's token: store only while the lease is the caller's and the value is what it was; '' stores always
-- ARGV[2]  identity of the value that is to be replaced, '' for none
-- ARGV[3]  time to live in milliseconds, '' for no expiry   ARGV[4]  the bytes
-- returns  the key's PTTL, read after it was set, so that the server tracks it; nil when nothing was stored
if ARGV[1] ~= '' then
  if redis.call('GET', KEYS[2]) ~= ARGV[1] then return false end
  if identity(redis.call('GET', KEYS[1])) ~= ARGV[2] then
    redis.call('UNLINK', KEYS[2])
    return false
  end
end
if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
end
redis.call('UNLINK', KEYS[2])
return redis.call('PTTL', KEYS[1])
