-- Read a version counter, creating it when it is not there.
-- KEYS[1]  the counter
-- returns  its value, decimal text
-- A new counter starts at the server's clock in microseconds, so one that was evicted or flushed can never come
-- back with a version that an old entry still carries. The read stands last: it is what the server tracks.
if redis.call('EXISTS', KEYS[1]) == 0 then
  local now = redis.call('TIME')
  redis.call('SET', KEYS[1], string.format('%d%06d', now[1], now[2]), 'NX')
end
return redis.call('GET', KEYS[1])
