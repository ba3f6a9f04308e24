-- For scripts that look at a version counter: put before them.

-- A counter's text and its halves; nil for what is none: nothing, or what these scripts did not write. From 2^53 on a
-- double does not tell a number from the next one.
local function counter(key)
  local value = redis.call('GET', key)
  local hard, soft = string.match(value or '', '^(%d+) ?(%d*)$')
  if not hard or tonumber(hard) >= 2^53 or (tonumber(soft) or 0) >= 2^53 then return nil end
  return value, tonumber(hard), tonumber(soft) or 0
end
