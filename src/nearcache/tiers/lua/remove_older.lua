-- Unlink the entries of a cleared namespace, but none that was written after it was cleared.
-- KEYS     keys of that namespace
-- ARGV[1]  the namespace's version before the clear ('' when there was none)
-- ARGV[2]  the namespace's version since
-- returns  how many of the removed were valid until the clear
-- Versions are compared as numbers: Lua's string comparison follows the server's locale. Values without a header are
-- other programs' JSON: they have no version, so they go and count. Keys that hold another type are not ours.
local counted = 0
for _, key in ipairs(KEYS) do
  local head = beginning(key)
  if type(head) == 'string' and head ~= '' then
    local version = nil
    if string.byte(head, 1) == 193 and string.byte(head, 2) == 1 and #head == 40 then version = number(head, 25) end
    if version == nil or version < tonumber(ARGV[2]) then
      if live(key, version == nil and '' or ARGV[1]) then counted = counted + 1 end
      redis.call('UNLINK', key)
    end
  end
end
return counted
