-- Decide who loads a key: whoever sets its lease.
-- KEYS[1]  the key   KEYS[2]  its lease
-- ARGV[1]  identity of the value that is to be replaced, '' for none
-- ARGV[2]  a token of the caller's   ARGV[3]  how long the lease lasts, in milliseconds
-- ARGV[4]  a holder that is known to be dead, whose lease may be taken; '' for none
-- returns  {1 when the lease is the caller's, the value when there is another one than ARGV[1], its PTTL, the holder,
--          whether there is a value, the server's clock in microseconds}
-- Value and holder are read here, so the server tracks both for whoever loses.
local value, holder = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
local other = value and identity(value) ~= ARGV[1]
local won = not other and (not holder or holder == ARGV[4])
if won then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
  holder = ARGV[2]
end
local now = redis.call('TIME')
return {won and 1 or 0, other and value or false, redis.call('PTTL', KEYS[1]), holder or '', value and 1 or 0,
        string.format('%d%06d', now[1], now[2])}
