-- Raise a version counter: whatever carries an older version is invalid from here on.
-- KEYS[1]  the counter
-- returns  {the value before ('' when there was none), the value now}, decimal text
-- At least one more than before, and at least the server's clock: a lost increment cannot be issued twice.
local before = redis.call('GET', KEYS[1])
local now = redis.call('TIME')
local raised = math.max(now[1] * 1000000 + now[2], (tonumber(before) or 0) + 1)
redis.call('SET', KEYS[1], string.format('%.0f', raised))
return {before or '', redis.call('GET', KEYS[1])}
