//! What has to happen in Redis as one step. Each script touches one key, so that it works in a cluster as well, and does
//! nothing at all if Redis is out of memory.

use std::sync::LazyLock;

use redis::Script;

/// Adds entries in order, all or, at a limit, none. An entry with a place is added there; if the stream is past that
/// place it is taken for done if it is there, and otherwise added at the end.
///
/// KEYS: the stream. ARGV: entries at most; the highest place that was published there, or ""; how many groups it is to
/// have, and these, which are made if they are not there; then for each entry its place or "", its id, its key, its body.
/// Answers the places. If the stream ends below that place, it has lost entries, and nothing is added.
pub(super) static PUBLISH: LazyLock<Script> = LazyLock::new(|| {
    let body = r"
local stream, published, groups = KEYS[1], ARGV[2], tonumber(ARGV[3])
local count = (#ARGV - 3 - groups) / 4
-- Here and not before, so that no flush comes between: what a group is not there for would be settled unread.
for g = 1, groups do
  local made = redis.pcall('XGROUP', 'CREATE', stream, ARGV[3 + g], '0', 'MKSTREAM')
  if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
end
if published ~= '' then
  local is = redis.call('TYPE', stream).ok == 'stream'
  if not is or less(parse(field(redis.call('XINFO', 'STREAM', stream), 'last-generated-id')), parse(published)) then
    return redis.error_reply('STREAMLOST ' .. stream)
  end
end
if redis.call('XLEN', stream) + count > tonumber(ARGV[1]) then
  return redis.error_reply('STREAMFULL ' .. stream)
end
local places = {}
for i = 0, count - 1 do
  local at = 4 + groups + i * 4
  local place, id, key, body = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local made
  if place == '' then
    made = redis.call('XADD', stream, '*', 'id', id, 'key', key, 'envelope', body)
  else
    made = redis.pcall('XADD', stream, place, 'id', id, 'key', key, 'envelope', body, 'place', place)
    if type(made) == 'table' and made.err then
      if not string.find(made.err, 'equal or smaller', 1, true) then return made end
      local there = redis.call('XRANGE', stream, place, place)
      local same = false
      if #there > 0 then
        local fields = there[1][2]
        for f = 1, #fields, 2 do
          if fields[f] == 'id' and fields[f + 1] == id then same = true end
        end
      end
      if same then
        made = place
      else
        made = redis.call('XADD', stream, '*', 'id', id, 'key', key, 'envelope', body, 'place', place)
      end
    end
  end
  places[i + 1] = made
end
return places
";
    Script::new(&format!("{COMMON}{body}"))
});

/// Takes or renews a lease. KEYS: the lease. ARGV: token, milliseconds. Answers 0 if somebody else has it, 1 if it was
/// renewed, 2 if it is new.
pub(super) static LEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if held then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 2
",
    )
});

/// Gives a lease back, if it is the caller's. KEYS: the lease. ARGV: token.
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
",
    )
});

/// Makes a consumer known to the others of its group for a while. KEYS: the members. ARGV: consumer, milliseconds.
/// Answers how many there are.
pub(super) static JOIN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 4)
return redis.call('ZCARD', KEYS[1])
",
    )
});

/// What the scripts below have in common: ids as pairs of numbers, and the first id that a group still needs.
const COMMON: &str = r"
local function parse(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return {tonumber(ms), tonumber(seq)}
end
local function less(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end
local function text(id) return string.format('%.0f-%.0f', id[1], id[2]) end
local function field(flat, name)
  for i = 1, #flat, 2 do if flat[i] == name then return flat[i + 1] end end
end
-- The lowest id some group has not acknowledged, and which group; nil if there are no groups.
local function floor_of(stream)
  local lowest, whose
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local name, at = field(group, 'name')
    if field(group, 'pending') > 0 then
      at = parse(redis.call('XPENDING', stream, name)[2])
    else
      at = parse(field(group, 'last-delivered-id'))
      at[2] = at[2] + 1
    end
    if not lowest or less(at, lowest) then lowest, whose = at, name end
  end
  return lowest, whose
end
";

/// Trims a stream by age and length, never past what a group has not acknowledged.
///
/// KEYS: the stream. ARGV: milliseconds entries are kept, entries that are kept, entries removed at once.
/// Answers how many were removed, and the group that keeps what is too old or too much, or "".
pub(super) static TRIM: LazyLock<Script> = LazyLock::new(|| {
    let body = r"
local stream = KEYS[1]
if redis.call('TYPE', stream).ok ~= 'stream' then return {0, ''} end
local len = redis.call('XLEN', stream)
if len == 0 then return {0, ''} end
local time = redis.call('TIME')
local upto = {math.max(time[1] * 1000 - ARGV[1], 0), 0}
local excess = len - ARGV[2]
if excess > 0 then
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', math.min(excess, tonumber(ARGV[3])) + 1)
  local last = parse(first[#first][1])
  if less(upto, last) then upto = last end
end
local lowest, whose = floor_of(stream)
local held = ''
if lowest and less(lowest, upto) then
  upto = lowest
  local first = redis.call('XRANGE', stream, text(lowest), '+', 'COUNT', 1)
  if #first > 0 then held = whose end
end
return {redis.call('XTRIM', stream, 'MINID', text(upto)), held}
";
    Script::new(&format!("{COMMON}{body}"))
});

/// Looks how much of a stream is settled.
///
/// KEYS: the stream. ARGV: the highest place that was published there, or ""; then the groups it was given. One that is
/// gone was lost with what it had not read.
/// Answers {lost, all, or below}, and with below the number of the first entry that is needed still, or "" if none of
/// the next entries has a place.
pub(super) static SETTLED: LazyLock<Script> = LazyLock::new(|| {
    let body = r"
local stream, published = KEYS[1], ARGV[1]
if redis.call('TYPE', stream).ok ~= 'stream' then
  if published == '' then return {'all', ''} end
  return {'lost', ''}
end
local top = field(redis.call('XINFO', 'STREAM', stream), 'last-generated-id')
if published ~= '' and less(parse(top), parse(published)) then return {'lost', ''} end
if published ~= '' then
  local there = {}
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do there[field(group, 'name')] = true end
  for g = 2, #ARGV do
    if not there[ARGV[g]] then return {'lost', ''} end
  end
end
local lowest = floor_of(stream)
if not lowest then return {'all', ''} end
local next = redis.call('XRANGE', stream, text(lowest), '+', 'COUNT', 100)
if #next == 0 then return {'all', ''} end
for _, entry in ipairs(next) do
  local place = field(entry[2], 'place')
  if place then return {'below', string.match(place, '-(%d+)$')} end
end
return {'below', ''}
";
    Script::new(&format!("{COMMON}{body}"))
});
