-- Give back a lease that brought no value.
-- KEYS[1]  the lease
-- ARGV[1]  the caller's token   ARGV[2]  milliseconds in which nobody shall try again, '' for none   ARGV[3]  what then holds it
if redis.call('GET', KEYS[1]) == ARGV[1] then
  if ARGV[2] == '' then
    redis.call('UNLINK', KEYS[1])
  else
    redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
  end
end
return 1
