-- Unlink the entries of a cleared namespace, but none that was written after it was cleared.
-- KEYS     keys of that namespace
-- ARGV[1]  the namespace's version before the clear ('' when there was none)
-- ARGV[2]  the namespace's version since
-- returns  how many of the removed were valid until the clear
-- An entry's version is an unsigned 64-bit number at bytes 25 to 32 of its header (codec/envelope.py). It is compared
-- as a number (Lua's string comparison follows the server's locale). Values without a header are other programs'
-- JSON: they have no version, so they go and count. Keys that hold another type are not ours.
local counted = 0
for _, key in ipairs(KEYS) do
  local head = redis.pcall('GETRANGE', key, 0, 31)
  if type(head) == 'string' and head ~= '' then
    local version = nil
    if string.byte(head, 1) == 193 and string.byte(head, 2) == 1 and #head == 32 then
      version = 0
      for i = 25, 32 do version = version * 256 + string.byte(head, i) end
    end
    if version == nil or version < tonumber(ARGV[2]) then
      redis.call('UNLINK', key)
      if version == nil or version == tonumber(ARGV[1]) then counted = counted + 1 end
    end
  end
end
return counted
