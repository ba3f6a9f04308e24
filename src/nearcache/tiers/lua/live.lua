-- For scripts that look at the front of a stored value (codec/envelope.py): put before them.

-- The unsigned 64-bit number at a place of a header; exact up to 2^53.
local function number(head, at)
  local n = 0
  for i = at, at + 7 do n = n * 256 + string.byte(head, i) end
  return n
end

-- What a key's value begins with; nothing of another type than ours. Any other error is the caller's.
local function beginning(key)
  local head = redis.pcall('GETRANGE', key, 0, 39)
  if type(head) == 'table' and not string.find(head.err, 'WRONGTYPE', 1, true) then
    return redis.call('GETRANGE', key, 0, 39)
  end
  return head
end

-- Whether a key holds a value that is valid and not expired, and its grace in milliseconds.
-- Values without a header are other programs' JSON: they have no version and no grace.
local function live(key, version)
  local head = beginning(key)
  if type(head) ~= 'string' or head == '' then return false, 0 end
  if string.byte(head, 1) ~= 193 then return true, 0 end
  if string.byte(head, 2) ~= 1 or #head < 40 then return false, 0 end
  local grace, left = number(head, 17), redis.call('PTTL', key)
  return number(head, 25) == tonumber(version) and (left < 0 or left > grace), grace
end
