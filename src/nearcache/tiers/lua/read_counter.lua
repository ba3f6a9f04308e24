-- Read a version counter, creating it when it is not there, or when what is there is none.
-- KEYS[1]  the counter
-- ARGV[1]  what a new one starts from, in microseconds of the server's clock; '' is now
-- returns  'hard' or 'hard soft', decimal text
-- A new counter starts at the server's clock, so one that was evicted or flushed can never come back with a version
-- that an old entry still carries. The read stands last: it is what the server tracks.
if not counter(KEYS[1]) then
  local now = redis.call('TIME')
  local start = ARGV[1]
  if start == '' then start = string.format('%d%06d', now[1], now[2]) end
  redis.call('SET', KEYS[1], start)
end
return redis.call('GET', KEYS[1])
