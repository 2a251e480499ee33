"""The scripts that run on a Redis server, and the framing of what they are given. No I/O here.

`TRANSITION` carries any number of writes to any number of runs of one slot in one execution. For each of them all checks come
before its first write, because Lua does not roll back; a refused one neither stops nor undoes another; commands that can fail
(a key of a foreign type) are only called through `pcall` or after a look at the type.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from functools import cache

__all__ = ["DENIED", "INDEX", "KEEP_SAVED", "RELEASE", "RENEW", "REVOKED", "SAVE", "TRANSITION", "Op", "frame", "frame_list", "sha1"]

_length = struct.Struct(">I").pack


@cache
def sha1(script: str) -> str:
    """The name under which a server caches `script`."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class Op:
    """What one item of a `TRANSITION` batch asks for: its first field."""

    APPEND = b"1"
    ADMIT = b"2"
    PUSH = b"3"
    DELETE = b"4"
    META = b"5"
    PUT = b"6"


def frame(fields: Iterable[bytes]) -> bytes:
    """Fields one after another, each behind its length in four bytes."""
    return b"".join([part for field in fields for part in (_length(len(field)), field)])


def frame_list(elements: Sequence[bytes]) -> list[bytes]:
    """The fields of a list."""
    return [b"%d" % len(elements), *elements]


# ARGV: retention ms, tombstone ms, inbox limit, number of items, all items in one string (see `frame`; as arguments of their own
# they cost Valkey more than all the rest). A list = its length, then its elements; blobs = a list of name, data, name, data ...
#   APPEND token, append id, index, head, new head, expected token, lease lives (0/1), status, records, wide (0/1)
#          and if wide: outcome, blobs, needed blobs, taken commands
#   ADMIT  admission, record, head, nonce, blobs
#   PUSH   command id, body, nonce       the nonce tells our own retry from another command with the same id
#   DELETE, META  nothing
#   PUT    name, data
# KEYS: those of the items one after another, all six of `RunKeys`, or the first three for META and for an APPEND that is not wide,
# or that of the documents for PUT.
# Answers: a number = done (1 for APPEND); an array starting with a word = refused; ADMIT and META answer
# {created, token, index, head, status, admission, outcome, expired, size}.
TRANSITION = """
local RETENTION_MS, TOMBSTONE_MS, INBOX_MAX = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local NO_OWNER = '0:'
local items, cursor = ARGV[5], 1

local function take()
  local field
  field, cursor = struct.unpack('>I4c0', items, cursor)
  return field
end

local function take_list()
  local list = {}
  for i = 1, tonumber(take()) do list[i] = take() end
  return list
end

local function failed(problem, key)
  if string.find(problem, 'WRONGTYPE', 1, true) then return {'foreign', key} end
  return {'error', problem}
end

local function foreign(key, kind)
  local found = redis.pcall('TYPE', key)
  if found.err then return {'error', found.err} end
  if found.ok ~= 'none' and found.ok ~= kind then return {'foreign', key} end
end

local function foreign_among(at)
  return foreign(KEYS[at + 2], 'string') or foreign(KEYS[at + 3], 'hash') or foreign(KEYS[at + 4], 'hash')
    or foreign(KEYS[at + 5], 'hash')
end

local function length(key)
  local found = redis.pcall('LLEN', key)
  if type(found) == 'table' then return 0, failed(found.err, key) end
  return found
end

local function read_tombstone(at)
  local packed = redis.pcall('GET', KEYS[at + 2])
  if not packed then
    if redis.call('EXISTS', KEYS[at]) == 1 then return nil, {'foreign', KEYS[at]} end
    return nil
  end
  if type(packed) == 'table' then return nil, failed(packed.err, KEYS[at + 2]) end
  local ok, stone = pcall(cmsgpack.unpack, packed)
  if not ok or type(stone) ~= 'table' or #stone ~= 5 then return nil, {'foreign', KEYS[at + 2]} end
  return {admission = stone[1], outcome = stone[2], head = stone[3], token = stone[4], last = stone[5]}
end

local function describe(at, created)
  local m = redis.pcall('HMGET', KEYS[at], 'token', 'head', 'status', 'admission', 'outcome', 'size')
  if m.err then return failed(m.err, KEYS[at]) end
  if m[1] then
    local index, problem = length(KEYS[at + 1])
    return problem or {created, m[1], index, m[2], m[3], m[4], m[5] or '', 0, tonumber(m[6])}
  end
  local stone, problem = read_tombstone(at)
  if stone then return {0, stone.token, 0, stone.head, 'finished', stone.admission, stone.outcome, 1, 0} end
  return problem or {'missing'}
end

local function push_all(log, records)
  for from = 1, #records, 200 do
    redis.call('RPUSH', log, unpack(records, from, math.min(from + 199, #records)))
  end
end

local function put_blobs(key, blobs)
  local size = 0
  for i = 1, #blobs, 2 do
    if redis.call('HSETNX', key, blobs[i], blobs[i + 1]) == 1 then size = size + #blobs[i + 1] end
  end
  return size
end

local function bury(e, at)
  local admission = redis.call('HGET', KEYS[at], 'admission')
  redis.call('HSET', KEYS[at], 'outcome', e.outcome)
  local stone = cmsgpack.pack({admission, e.outcome, e.new_head, e.token, e.append_id})
  redis.call('SET', KEYS[at + 2], stone, 'PX', TOMBSTONE_MS)
  for _, k in ipairs({at, at + 1, at + 3, at + 4, at + 5}) do redis.call('PEXPIRE', KEYS[k], RETENTION_MS) end
end

local function blob_missing(key, needed, brought)
  local here = {}
  for i = 1, #brought, 2 do here[brought[i]] = true end
  for _, name in ipairs(needed) do
    if not here[name] and redis.call('HEXISTS', key, name) == 0 then return true end
  end
end

local function append_without_log(e, at)
  local stone, problem = read_tombstone(at)
  if problem then return problem end
  if not stone then return {'missing', NO_OWNER, 0, ''} end
  if stone.token == e.token and stone.last == e.append_id then return 1 end
  return {stone.token == e.expected and 'finished' or 'fenced', stone.token, 0, stone.head}
end

local function read_append()
  local e, index, leased = {}
  e.token, e.append_id, index, e.head, e.new_head, e.expected, leased, e.status, cursor =
    struct.unpack('>I4c0I4c0I4c0I4c0I4c0I4c0I4c0I4c0', items, cursor)
  e.index, e.leased, e.records, e.wide = tonumber(index), leased == '1', take_list(), take() == '1'
  if e.wide then e.outcome, e.blobs, e.needs, e.taken = take(), take_list(), take_list(), take_list() end
  return e, e.wide and 6 or 3
end

local function append(e, at)
  local m = redis.pcall('HMGET', KEYS[at], 'token', 'last', 'status', 'head', 'size')
  if m.err then return failed(m.err, KEYS[at]) end
  local owner = m[1]
  if not owner then return append_without_log(e, at) end
  if owner == e.token and m[2] == e.append_id then return 1 end
  local index, problem = length(KEYS[at + 1])
  if owner ~= e.expected then return {'fenced', owner, index, m[4]} end
  if m[3] == 'finished' then return {'finished', owner, index, m[4]} end
  if e.leased and m[3] ~= 'parked' then return {'leased', owner, index, m[4]} end
  if problem then return problem end
  if index ~= e.index or m[4] ~= e.head then return {'moved', owner, index, m[4]} end
  local size = tonumber(m[5])
  if e.wide then
    problem = foreign_among(at)
    if problem then return problem end
    if blob_missing(KEYS[at + 3], e.needs, e.blobs) then return {'no_blob', owner, index, m[4]} end
    size = size + put_blobs(KEYS[at + 3], e.blobs)
  end
  for _, record in ipairs(e.records) do size = size + #record end
  push_all(KEYS[at + 1], e.records)
  redis.call('HSET', KEYS[at], 'last', e.append_id, 'head', e.new_head, 'size', size)
  if owner ~= e.token then redis.call('HSET', KEYS[at], 'token', e.token) end
  if m[3] ~= e.status then redis.call('HSET', KEYS[at], 'status', e.status) end
  if e.wide then
    for _, id in ipairs(e.taken) do redis.call('HDEL', KEYS[at + 4], id) end
    if e.status == 'finished' then bury(e, at) end
  end
  return 1
end

local function read_admit()
  return {admission = take(), record = take(), head = take(), nonce = take(), blobs = take_list()}, 6
end

local function admit(e, at)
  local present = describe(at, 0)
  if present[1] ~= 'missing' then
    if present[1] == 0 and redis.call('HGET', KEYS[at], 'nonce') == e.nonce then present[1] = 1 end
    return present
  end
  local problem = foreign(KEYS[at + 1], 'none') or foreign_among(at)
  if problem then return problem end
  local size = #e.record + put_blobs(KEYS[at + 3], e.blobs)
  redis.call('RPUSH', KEYS[at + 1], e.record)
  redis.call('HSET', KEYS[at], 'token', NO_OWNER, 'last', '', 'status', 'open', 'head', e.head, 'size', size,
    'admission', e.admission, 'nonce', e.nonce)
  return {1, NO_OWNER, 1, e.head, 'open', e.admission, '', 0, size}
end

local function read_push() return {id = take(), body = take(), nonce = take()}, 6 end

local function push(e, at)
  local status = redis.pcall('HGET', KEYS[at], 'status')
  if type(status) == 'table' then return failed(status.err, KEYS[at]) end
  if not status then return 0 end
  local problem = foreign_among(at)
  if problem then return problem end
  local nonce = redis.call('HGET', KEYS[at + 5], e.id)
  if nonce then return nonce == e.nonce and 1 or 0 end
  if status == 'finished' then return 0 end
  if redis.call('HLEN', KEYS[at + 4]) >= INBOX_MAX then return {'full'} end
  local position = string.format('%012d', redis.call('HLEN', KEYS[at + 5]))
  redis.call('HSET', KEYS[at + 5], e.id, e.nonce)
  redis.call('HSET', KEYS[at + 4], e.id, position .. e.body)
  return 1
end

local function delete(e, at)
  local m = redis.pcall('HMGET', KEYS[at], 'status', 'size')
  if m.err then return failed(m.err, KEYS[at]) end
  if not m[1] then return 0 end
  if m[1] ~= 'finished' then return {'unfinished', m[1]} end
  local problem = foreign(KEYS[at + 1], 'list') or foreign_among(at)
  if problem then return problem end
  redis.call('UNLINK', KEYS[at + 1], KEYS[at + 3], KEYS[at + 4], KEYS[at + 5], KEYS[at])
  return tonumber(m[2])
end

local function meta(e, at) return describe(at, 0) end

local function read_delete() return {}, 6 end

local function read_meta() return {}, 3 end

local function read_put() return {name = take(), data = take()}, 1 end

local function put(e, at)
  local problem = foreign(KEYS[at], 'hash')
  if problem then return problem end
  redis.call('HSET', KEYS[at], e.name, e.data)
  return 1
end

local ops = {
  {read_append, append}, {read_admit, admit}, {read_push, push}, {read_delete, delete}, {read_meta, meta}, {read_put, put}
}
local answers, at = {}, 1
for i = 1, tonumber(ARGV[4]) do
  local op = ops[tonumber(take())]
  local e, keys = op[1]()
  answers[i] = op[2](e, at)
  at = at + keys
end
return answers
"""

# KEYS: open, finished. ARGV: grace in microseconds, then pairs of (move, run id). Scores are the server's time in microseconds.
# An entry that is younger than the grace may belong to an admission under way, so it is not swept, and a repeated admission
# renews an older one for the same reason.
INDEX = """
local time = redis.call('TIME')
local now, grace = time[1] * 1000000 + time[2], tonumber(ARGV[1])
for i = 2, #ARGV, 2 do
  local move, run = ARGV[i], ARGV[i + 1]
  local since = redis.call('ZSCORE', KEYS[1], run)
  if move == 'open' then
    if not since or now - since > grace then redis.call('ZADD', KEYS[1], now, run) end
  elseif move == 'finish' then
    redis.call('ZADD', KEYS[2], 'NX', now, run)
    redis.call('ZREM', KEYS[1], run)
  elseif move == 'sweep' then
    if since and now - since > grace then redis.call('ZREM', KEYS[1], run) end
  elseif move == 'drop' then
    redis.call('ZREM', KEYS[2], run)
  end
  now = now + 1
end
return 1
"""

REVOKED = b"revoked"
"""What a lease holds that was taken from its owner for good; "1" else."""

# KEYS: lease. ARGV: milliseconds. 0: it was revoked.
RENEW = """
if redis.call('GET', KEYS[1]) == 'revoked' then return 0 end
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return 1
"""

# KEYS: lease. One that was revoked stays so: its owner must not take it again.
RELEASE = """
if redis.call('GET', KEYS[1]) ~= 'revoked' then redis.call('DEL', KEYS[1]) end
return 1
"""

# KEYS: any key of ours. The names of the commands that this user may not use on it: found at open, because a script that is
# refused a command halfway has written the first half. Servers before 7.0 cannot be asked.
DENIED = """
local key, denied = KEYS[1], {}
if not redis.acl_check_cmd then return denied end
for _, words in ipairs({
  {'TYPE', key}, {'EXISTS', key}, {'GET', key}, {'SET', key, '1', 'PX', '1'}, {'PEXPIRE', key, '1'}, {'UNLINK', key}, {'DEL', key},
  {'HMGET', key, '1'}, {'HGET', key, '1'}, {'HSET', key, '1', '1'}, {'HSETNX', key, '1', '1'}, {'HDEL', key, '1'}, {'HLEN', key},
  {'HGETALL', key}, {'HEXISTS', key, '1'}, {'LLEN', key}, {'LRANGE', key, '0', '1'}, {'LINDEX', key, '0'}, {'RPUSH', key, '1'},
  {'LPOS', key, '1'}, {'ZADD', key, '1', '1'}, {'ZREM', key, '1'}, {'ZSCORE', key, '1'}, {'ZRANGE', key, '0', '1'},
  {'ZRANGEBYSCORE', key, '0', '1'}, {'TIME'}
}) do
  if not redis.acl_check_cmd(unpack(words)) then denied[#denied + 1] = words[1] end
end
return denied
"""

# KEYS: saved. ARGV: the entry, "<step index>:<nonce>:<json>"; the nonce keeps our own retry from saving twice.
SAVE = """
if not redis.call('LPOS', KEYS[1], ARGV[1]) then redis.call('RPUSH', KEYS[1], ARGV[1]) end
return 1
"""

# KEYS: saved. ARGV: the last step index to keep, or ''.
KEEP_SAVED = """
local kept = {}
if ARGV[1] ~= '' then
  for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    if tonumber(string.match(entry, '^(-?%d+):')) <= tonumber(ARGV[1]) then kept[#kept + 1] = entry end
  end
end
redis.call('DEL', KEYS[1])
for _, entry in ipairs(kept) do redis.call('RPUSH', KEYS[1], entry) end
return #kept
"""
