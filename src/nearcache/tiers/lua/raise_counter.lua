-- Raise a version counter: what carries an older version is invalid from here on, or only expired.
-- KEYS[1]  the counter
-- ARGV[1]  'hard': invalid; 'soft': expired
-- returns  {the counter before ('' when there was none), the counter now}, decimal text
-- At least one more than before, and at least the server's clock: a lost increment cannot be issued twice. Without a
-- counter nobody can tell what was invalidated before, so even the soft half then begins with a hard one.
local before, hard, soft = counter(KEYS[1])
local now = redis.call('TIME')
local raised = now[1] * 1000000 + now[2]
if before then raised = math.max(raised, hard + 1, soft + 1) end
local value = string.format('%.0f', raised)
if ARGV[1] == 'soft' and before then value = string.format('%.0f %.0f', hard, raised) end
redis.call('SET', KEYS[1], value)
return {before or '', redis.call('GET', KEYS[1])}
