-- Wireshark dissector of the claim protocol (claim-protocol.md, minor version 2).
--
--   tshark -X lua_script:proto-spec/clusterd.lua -r FILE -Y clusterd
--   wireshark -X lua_script:proto-spec/clusterd.lua FILE
--
-- Written from the specification alone, so that it can contradict the daemon. Section
-- numbers are those of the specification. Nothing here may raise an error, whatever the
-- bytes are: each read is preceded by a look at the length.

local clusterd = Proto("clusterd", "Claim protocol of clusterd")

-- 3.1, 3.2, 3.3
local IP_PROTOCOL, TTL, MAGIC, MAJOR = 150, 255, 0xc15d, 1
local HEADER_LEN, TAG_LEN, FRAME_MAX = 32, 16, 1380
local CONTEST_LEN, PORTS_MAX, HEARD_LEN, VIP_LEN, FURTHER_LEN = 22, 64, 20, 4, 3
local KINDS = {
    [1] = "CLAIM", [2] = "OWN", [3] = "RELEASE", [4] = "HELLO", [5] = "HEARD", [6] = "HELLO-UDP",
    [7] = "VIPS", [8] = "VIPS-TCP", [9] = "VIPS-UDP",
}
-- How much of a frame the info column shows.
local ENTRIES_SHOWN, PORTS_SHOWN = 4, 4

local f = {
    magic = ProtoField.uint16("clusterd.magic", "Magic", base.HEX),
    major = ProtoField.uint8("clusterd.major", "Major version"),
    minor = ProtoField.uint8("clusterd.minor", "Minor version"),
    cluster = ProtoField.uint32("clusterd.cluster", "Cluster id", base.HEX),
    node = ProtoField.uint32("clusterd.node", "Node id", base.HEX),
    flags = ProtoField.uint8("clusterd.flags", "Flags", base.HEX),
    joining = ProtoField.bool("clusterd.flags.joining", "Joining: only listens yet", 8, nil, 0x01),
    leaving = ProtoField.bool("clusterd.flags.leaving", "Leaving: its last frame", 8, nil, 0x02),
    hash = ProtoField.bool("clusterd.flags.hash", "Hash: decides by hash, does not claim", 8, nil, 0x04),
    deaf = ProtoField.bool("clusterd.flags.deaf", "Deaf: seems not to hear the others", 8, nil, 0x08),
    mute = ProtoField.bool("clusterd.flags.mute", "Mute: the others seem not to hear it", 8, nil, 0x10),
    other_flags = ProtoField.uint8("clusterd.flags.unknown", "Unknown flags", base.HEX, nil, 0xe0),
    count = ProtoField.uint8("clusterd.count", "Entries"),
    key_id = ProtoField.uint8("clusterd.key_id", "Key id", base.HEX),
    reserved = ProtoField.uint8("clusterd.reserved", "Reserved", base.HEX),
    incarnation = ProtoField.uint64("clusterd.incarnation", "Incarnation", base.HEX),
    sequence = ProtoField.uint64("clusterd.sequence", "Sequence"),

    entry = ProtoField.none("clusterd.entry", "Entry"),
    kind = ProtoField.uint8("clusterd.kind", "Kind", base.DEC, KINDS),
    len = ProtoField.uint8("clusterd.len", "Length"),
    attempt = ProtoField.bytes("clusterd.attempt", "Attempt"),
    port = ProtoField.uint16("clusterd.port", "Service port"),
    try = ProtoField.uint8("clusterd.try", "Try"),
    rank = ProtoField.uint8("clusterd.rank", "Rank"),
    first = ProtoField.framenum("clusterd.attempt.first", "First frame of this attempt"),
    since = ProtoField.relative_time("clusterd.attempt.since", "Time since that frame"),
    tcp = ProtoField.uint16("clusterd.unavailable.tcp", "Unavailable TCP port"),
    udp = ProtoField.uint16("clusterd.unavailable.udp", "Unavailable UDP port"),
    vip = ProtoField.uint32("clusterd.vip", "Further VIP", base.HEX),
    further_tcp = ProtoField.none("clusterd.further.tcp", "Unavailable TCP port of a further VIP"),
    further_tcp_place = ProtoField.uint8("clusterd.further.tcp.place", "Place of the VIP in the list"),
    further_tcp_port = ProtoField.uint16("clusterd.further.tcp.port", "Port"),
    further_udp = ProtoField.none("clusterd.further.udp", "Unavailable UDP port of a further VIP"),
    further_udp_place = ProtoField.uint8("clusterd.further.udp.place", "Place of the VIP in the list"),
    further_udp_port = ProtoField.uint16("clusterd.further.udp.port", "Port"),
    heard = ProtoField.none("clusterd.heard", "Heard"),
    heard_node = ProtoField.uint32("clusterd.heard.node", "Node id", base.HEX),
    heard_incarnation = ProtoField.uint64("clusterd.heard.incarnation", "Incarnation", base.HEX),
    heard_sequence = ProtoField.uint32("clusterd.heard.sequence", "Highest sequence (low 32 bits)"),
    heard_missing = ProtoField.uint32("clusterd.heard.missing", "Frames missing (low 32 bits)"),
    unknown = ProtoField.bytes("clusterd.unknown", "Bytes that a receiver skips"),

    tag = ProtoField.bytes("clusterd.tag", "Trailer"),
    status = ProtoField.string("clusterd.tag.status", "Trailer is"),
    expected_tag = ProtoField.string("clusterd.tag.expected", "Trailer by the public key"),
    public_key = ProtoField.string("clusterd.public_key", "Public key of this VIP"),
    expected_cluster = ProtoField.uint32("clusterd.cluster.expected", "Cluster id of this VIP", base.HEX),
    refused = ProtoField.string("clusterd.refused", "Refused by rule"),
    gap = ProtoField.uint64("clusterd.gap", "Frames missing before this one"),
    repeated = ProtoField.bool("clusterd.repeated", "Not after the last frame of this incarnation"),
}
clusterd.fields = f

local function refusal(rule, text)
    return ProtoExpert.new("clusterd.refused." .. rule, text, expert.group.MALFORMED, expert.severity.ERROR)
end
local function note(name, text)
    return ProtoExpert.new(name, text, expert.group.SEQUENCE, expert.severity.NOTE)
end
-- The names under which the daemon counts frames (3.5).
local refusals = {
    ttl = refusal("ttl", "IP TTL is not 255"),
    truncated = refusal("truncated", "Frame or entry is cut off"),
    too_long = refusal("too_long", "Frame is too long"),
    magic = refusal("magic", "Wrong magic"),
    version = refusal("version", "Another major version"),
    cluster = refusal("cluster", "Another cluster"),
    tag = refusal("tag", "Wrong trailer"),
    malformed = refusal("malformed", "Length does not fit"),
}
local gap_note = note("clusterd.gap.expert", "Frames of this node are missing")
local repeated_note = note("clusterd.repeated.expert", "Frame seen before, or late")
local experts = { gap_note, repeated_note }
for _, each in pairs(refusals) do
    experts[#experts + 1] = each
end
clusterd.experts = experts

local ip_ttl, ip_dst = Field.new("ip.ttl"), Field.new("ip.dst")
local ipv6_hlim, ipv6_dst = Field.new("ipv6.hlim"), Field.new("ipv6.dst")

-- Of the innermost IP header: a tunnel or an ICMP error has two.
local function innermost(field)
    local all = { field() }
    return all[#all]
end

-- What is remembered of a capture. Only the first pass over it, in order, writes here.
local keys = {}      -- VIP as raw bytes -> its public key and cluster id
local highest = {}   -- cluster, node and incarnation -> greatest sequence so far
local order = {}     -- frame number -> what was noticed about its sequence
local attempts = {}  -- attempt id -> frame that first spoke of it, and when

-- Called for each capture file.
function clusterd.init()
    keys, highest, order, attempts = {}, {}, {}, {}
end

-- Section 4: SipHash-2-4 over a Lua string, 8 bytes or, if `wide`, 16. Words of 64 bits are
-- pairs of halves, low first: Wireshark's UInt64 is an object per result, six times slower.
-- Halves out of `bit` may be negative, so that only sums care about their range.

local bxor, bor, lshift, rshift = bit.bxor, bit.bor, bit.lshift, bit.rshift
local HALF = 2 ^ 32

local function word(bytes, at)
    local a, b, c, d, e, f, g, h = bytes:byte(at, at + 7)
    return a + b * 0x100 + c * 0x10000 + d * 0x1000000, e + f * 0x100 + g * 0x10000 + h * 0x1000000
end

local function add(al, ah, bl, bh)
    local low = al % HALF + bl % HALF
    return low % HALF, (ah + bh + (low >= HALF and 1 or 0)) % HALF
end

local function xor(al, ah, bl, bh)
    return bxor(al, bl), bxor(ah, bh)
end

local function rol(low, high, by)
    return bor(lshift(low, by), rshift(high, 32 - by)), bor(lshift(high, by), rshift(low, 32 - by))
end

local function little_endian(...)
    local bytes = {}
    for _, half in ipairs({ ... }) do
        for shift = 0, 24, 8 do
            bytes[#bytes + 1] = string.char(rshift(half, shift) % 256)
        end
    end
    return table.concat(bytes)
end

local function siphash(key, message, wide)
    local k0l, k0h = word(key, 1)
    local k1l, k1h = word(key, 9)
    local v0l, v0h = xor(k0l, k0h, 0x70736575, 0x736f6d65)
    local v1l, v1h = xor(k1l, k1h, 0x6e646f6d, 0x646f7261)
    local v2l, v2h = xor(k0l, k0h, 0x6e657261, 0x6c796765)
    local v3l, v3h = xor(k1l, k1h, 0x79746573, 0x74656462)
    local function rounds(count)
        for _ = 1, count do
            v0l, v0h = add(v0l, v0h, v1l, v1h)
            v1l, v1h = rol(v1l, v1h, 13)
            v1l, v1h = xor(v1l, v1h, v0l, v0h)
            v0l, v0h = v0h, v0l
            v2l, v2h = add(v2l, v2h, v3l, v3h)
            v3l, v3h = rol(v3l, v3h, 16)
            v3l, v3h = xor(v3l, v3h, v2l, v2h)
            v0l, v0h = add(v0l, v0h, v3l, v3h)
            v3l, v3h = rol(v3l, v3h, 21)
            v3l, v3h = xor(v3l, v3h, v0l, v0h)
            v2l, v2h = add(v2l, v2h, v1l, v1h)
            v1l, v1h = rol(v1l, v1h, 17)
            v1l, v1h = xor(v1l, v1h, v2l, v2h)
            v2l, v2h = v2h, v2l
        end
    end
    local function result()
        return little_endian(bxor(v0l, v1l, v2l, v3l), bxor(v0h, v1h, v2h, v3h))
    end
    if wide then v1l = bxor(v1l, 0xee) end
    -- The last byte of the last word is the length.
    local padded = message .. ("\0"):rep((7 - #message) % 8) .. string.char(#message % 256)
    for at = 1, #padded, 8 do
        local low, high = word(padded, at)
        v3l, v3h = xor(v3l, v3h, low, high)
        rounds(2)
        v0l, v0h = xor(v0l, v0h, low, high)
    end
    v2l = bxor(v2l, wide and 0xee or 0xff)
    rounds(4)
    if not wide then return result() end
    local first = result()
    v1l = bxor(v1l, 0xdd)
    rounds(4)
    return first .. result()
end

local function hex(bytes)
    return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

-- 4.1. The VIP is where the frame was sent to.
local function public_key()
    local destination = innermost(ip_dst) or innermost(ipv6_dst)
    if not destination then return nil end
    local vip = destination.range:raw()
    if not keys[vip] then
        local bytes = siphash(("\0"):rep(16), "clusterd/1 public key" .. vip, true)
        local cluster = word(siphash(bytes, "cluster id"), 1) -- its low half
        keys[vip] = { bytes = bytes, cluster = cluster }
    end
    return keys[vip]
end

-- 3.2
local function add_header(tvb, tree)
    tree:add(f.magic, tvb(0, 2))
    tree:add(f.major, tvb(2, 1))
    tree:add(f.minor, tvb(3, 1))
    local cluster = tree:add(f.cluster, tvb(4, 4))
    tree:add(f.node, tvb(8, 4))
    local flags = tree:add(f.flags, tvb(12, 1))
    for _, flag in ipairs({ f.joining, f.leaving, f.hash, f.deaf, f.mute, f.other_flags }) do
        flags:add(flag, tvb(12, 1))
    end
    tree:add(f.count, tvb(13, 1))
    local key_id = tree:add(f.key_id, tvb(14, 1))
    key_id:append_text(tvb(14, 1):uint() == 0 and " (public)" or " (secret)")
    tree:add(f.reserved, tvb(15, 1))
    tree:add(f.incarnation, tvb(16, 8))
    tree:add(f.sequence, tvb(24, 8))
    return cluster
end

local FLAG_NAMES = { "joining", "leaving", "hash", "deaf", "mute" }

local function flag_names(flags)
    local names = ""
    for bit, name in ipairs(FLAG_NAMES) do
        if math.floor(flags / 2 ^ (bit - 1)) % 2 == 1 then names = names .. " " .. name end
    end
    return names
end

-- 3.3: adds an entry's body and returns its text, or nil if the length does not fit the kind.

local function add_contest(body, item, kind, contests)
    if body:len() < CONTEST_LEN then return nil end
    local attempt, port, try, rank = body(2, 16), body(18, 2), body(20, 1), body(21, 1)
    item:add(f.attempt, attempt)
    item:add(f.port, port)
    item:add(f.try, try)
    local shown = item:add(f.rank, rank)
    if rank:uint() == 0 then shown:append_text(" (incumbent)") end
    if rank:uint() == 255 then shown:append_text(" (no meaning)") end
    if body:len() > CONTEST_LEN then
        item:add(f.unknown, body(CONTEST_LEN))
    end
    contests[#contests + 1] = { item = item, attempt = attempt:raw() }
    return ("%s %s port %d try %d rank %d"):format(
        KINDS[kind], hex(attempt:raw()):sub(1, 8), port:uint(), try:uint(), rank:uint())
end

local function add_ports(body, item, kind, field)
    local count = (body:len() - 2) / 2
    if count % 1 ~= 0 or count > PORTS_MAX then return nil end
    local text = KINDS[kind]
    for i = 1, count do
        item:add(field, body(2 * i, 2))
        if i == 1 then text = text .. " unavailable" end
        if i <= PORTS_SHOWN then text = text .. " " .. body(2 * i, 2):uint() end
    end
    if count > PORTS_SHOWN then text = ("%s and %d more"):format(text, count - PORTS_SHOWN) end
    return text
end

local function add_vips(body, item)
    local count = (body:len() - 2) / VIP_LEN
    -- More than 63 do not fit into the length byte.
    if count % 1 ~= 0 then return nil end
    local text = "VIPS"
    for i = 1, count do
        local vip = body(2 + (i - 1) * VIP_LEN, VIP_LEN)
        item:add(f.vip, vip)
        if i <= PORTS_SHOWN then text = ("%s %08x"):format(text, vip:uint()) end
    end
    if count > PORTS_SHOWN then text = ("%s and %d more"):format(text, count - PORTS_SHOWN) end
    return text
end

local function add_further(body, item, kind, field)
    local count = (body:len() - 2) / FURTHER_LEN
    if count % 1 ~= 0 or count > PORTS_MAX then return nil end
    local text = KINDS[kind]
    for i = 1, count do
        local further = body(2 + (i - 1) * FURTHER_LEN, FURTHER_LEN)
        local place, port = further(0, 1), further(1, 2)
        local sub = item:add(f[field], further)
        sub:add(f[field .. "_place"], place)
        sub:add(f[field .. "_port"], port)
        sub:set_text(("Port %d of the further VIP at place %d"):format(port:uint(), place:uint()))
        if i == 1 then text = text .. " unavailable" end
        if i <= PORTS_SHOWN then text = ("%s %d:%d"):format(text, place:uint(), port:uint()) end
    end
    if count > PORTS_SHOWN then text = ("%s and %d more"):format(text, count - PORTS_SHOWN) end
    return text
end

local function add_heard(body, item)
    local count = (body:len() - 2) / HEARD_LEN
    -- More than 12 do not fit into the length byte.
    if count % 1 ~= 0 then return nil end
    local missing = 0
    for i = 1, count do
        local heard = body(2 + (i - 1) * HEARD_LEN, HEARD_LEN)
        local sub = item:add(f.heard, heard)
        sub:add(f.heard_node, heard(0, 4))
        sub:add(f.heard_incarnation, heard(4, 8))
        sub:add(f.heard_sequence, heard(12, 4))
        sub:add(f.heard_missing, heard(16, 4))
        sub:set_text(("Heard %08x up to %d, %d missing"):format(
            heard(0, 4):uint(), heard(12, 4):uint(), heard(16, 4):uint()))
        missing = missing + heard(16, 4):uint()
    end
    return ("HEARD %d, %d missing"):format(count, missing)
end

local function add_body(body, item, kind, contests)
    if body:len() < 2 then return nil end
    if kind >= 1 and kind <= 3 then return add_contest(body, item, kind, contests) end
    if kind == 4 then return add_ports(body, item, kind, f.tcp) end
    if kind == 5 then return add_heard(body, item) end
    if kind == 6 then return add_ports(body, item, kind, f.udp) end
    if kind == 7 then return add_vips(body, item) end
    if kind == 8 then return add_further(body, item, kind, "further_tcp") end
    if kind == 9 then return add_further(body, item, kind, "further_udp") end
    if body:len() > 2 then item:add(f.unknown, body(2)) end
    return "kind " .. kind
end

-- Rule 7 of 3.5. Returns the entries' texts and those about attempts.
local function add_entries(tvb, tree, refuse)
    local texts, contests = {}, {}
    local count, at = tvb(13, 1):uint(), HEADER_LEN
    local last, captured = tvb:reported_len() - TAG_LEN, tvb:len()
    for i = 1, count do
        if at + 2 > last then
            refuse("truncated", ("entry %d of %d is missing"):format(i, count))
            return texts, contests
        end
        if at + 2 > captured then return texts, contests end
        local kind, len = tvb(at, 1):uint(), tvb(at + 1, 1):uint()
        if at + len > last then
            refuse("truncated", ("entry %d of %d goes on behind the frame's end"):format(i, count))
            return texts, contests
        end
        if at + len > captured then return texts, contests end
        local item = tree:add(f.entry, tvb(at, math.max(len, 2)))
        item:add(f.kind, tvb(at, 1))
        item:add(f.len, tvb(at + 1, 1))
        local text = len >= 2 and add_body(tvb(at, len), item, kind, contests)
        if not text then
            item:set_text(("kind %d with %d bytes"):format(kind, len))
            refuse("malformed", ("kind %d with %d bytes"):format(kind, len), item)
            return texts, contests
        end
        item:set_text(text)
        texts[#texts + 1] = text
        at = at + len
    end
    if at < last then
        refuse("malformed", ("%d bytes after the last entry"):format(last - at))
    end
    return texts, contests
end

-- Cluster id and trailer (3.5). Ids are under the public key even where frames have a secret one.
local function check_key(tvb, tree, cluster_item, refuse)
    local length = tvb:reported_len()
    local complete = tvb:len() >= length
    if complete then tree:add(f.tag, tvb(length - TAG_LEN, TAG_LEN)) end
    local function status(text)
        tree:add(f.status, text):set_generated()
    end
    local key = public_key()
    if not key then return status("not verifiable without an IP header") end
    tree:add(f.public_key, hex(key.bytes)):set_generated()
    cluster_item:add(f.expected_cluster, key.cluster):set_generated()
    local cluster = tvb(4, 4):uint()
    if cluster ~= key.cluster then
        refuse("cluster", ("cluster id %08x is not %08x, that of this VIP"):format(cluster, key.cluster))
    end
    if tvb(14, 1):uint() ~= 0 then return status("not verifiable without the key") end
    if not complete then return status("not captured") end
    local expected = siphash(key.bytes, tvb:raw(0, length - TAG_LEN), true)
    if tvb:raw(length - TAG_LEN, TAG_LEN) == expected then return status("verified") end
    status("wrong")
    tree:add(f.expected_tag, hex(expected)):set_generated()
    refuse("tag", "wrong tag")
end

-- What a frame's sequence says about the capture. Cluster ids keep VIPs apart, whose
-- daemons may share a host and with it a node id.
local function add_sequence(tvb, pinfo, tree)
    local sequence = tvb(24, 8):uint64()
    if not pinfo.visited and order[pinfo.number] == nil then
        local sender = tvb:raw(4, 8) .. tvb:raw(16, 8)
        local before = highest[sender]
        local seen = {}
        if before and sequence <= before then
            seen.repeated = true
        else
            if before and sequence > before + 1 then seen.gap = sequence - before - 1 end
            highest[sender] = sequence
        end
        order[pinfo.number] = seen
    end
    local seen = order[pinfo.number] or {}
    if seen.gap then
        local item = tree:add(f.gap, seen.gap)
        item:set_generated()
        item:add_proto_expert_info(gap_note, ("%s frames of this node are missing before this one"):format(seen.gap))
    end
    if seen.repeated then
        local item = tree:add(f.repeated, true)
        item:set_generated()
        item:add_proto_expert_info(repeated_note)
    end
end

local function link_attempts(contests, pinfo)
    for _, contest in ipairs(contests) do
        if not pinfo.visited and not attempts[contest.attempt] then
            attempts[contest.attempt] = { number = pinfo.number, time = pinfo.rel_ts }
        end
        local first = attempts[contest.attempt]
        if first and first.number ~= pinfo.number then
            local since = math.max(pinfo.rel_ts - first.time, 0)
            local seconds = math.floor(since)
            local nanoseconds = math.floor((since - seconds) * 1e9 + 0.5)
            contest.item:add(f.first, first.number):set_generated()
            contest.item:add(f.since, NSTime.new(seconds, nanoseconds)):set_generated()
        end
    end
end

local function summary(tvb, texts)
    local text = ("%08x #%s%s"):format(tvb(8, 4):uint(), tvb(24, 8):uint64(), flag_names(tvb(12, 1):uint()))
    for i = 1, math.min(#texts, ENTRIES_SHOWN) do
        text = text .. ", " .. texts[i]
    end
    if #texts > ENTRIES_SHOWN then text = ("%s and %d more"):format(text, #texts - ENTRIES_SHOWN) end
    return text
end

function clusterd.dissector(tvb, pinfo, tree)
    pinfo.cols.protocol = "clusterd"
    local length, captured = tvb:reported_len(), tvb:len()
    local root = tree:add(clusterd, tvb(0, captured))
    local refused
    -- The first rule that fails is the frame's; the rest is still shown, for whoever looks for the reason.
    local function refuse(rule, text, item)
        if refused then return end
        refused = rule
        root:add(f.refused, rule):set_generated()
        local expert_item = item or root
        expert_item:add_proto_expert_info(refusals[rule], ("%s: %s"):format(rule, text))
    end

    -- 3.5, in its order.
    local ttl = innermost(ip_ttl) or innermost(ipv6_hlim)
    if ttl and ttl.value ~= TTL then refuse("ttl", ("IP TTL %d is not %d"):format(ttl.value, TTL)) end
    if length < HEADER_LEN + TAG_LEN then refuse("truncated", length .. " bytes") end
    if length > FRAME_MAX then refuse("too_long", ("%d bytes, at most %d allowed"):format(length, FRAME_MAX)) end
    local info = length .. " bytes"
    if captured >= 2 and tvb(0, 2):uint() ~= MAGIC then
        root:add(f.magic, tvb(0, 2))
        refuse("magic", ("magic %04x is not %04x"):format(tvb(0, 2):uint(), MAGIC))
    elseif captured >= HEADER_LEN then
        local cluster_item = add_header(tvb, root)
        local texts, contests = {}, {}
        local major = tvb(2, 1):uint()
        -- Header and trailer are the same in all majors (11), so that the trailer is looked at
        -- before the version; entries are not.
        if length >= HEADER_LEN + TAG_LEN then check_key(tvb, root, cluster_item, refuse) end
        if major ~= MAJOR then
            refuse("version", ("major version %d is not %d"):format(major, MAJOR))
        elseif length >= HEADER_LEN + TAG_LEN then
            texts, contests = add_entries(tvb, root, refuse)
        end
        if not refused then
            add_sequence(tvb, pinfo, root)
            link_attempts(contests, pinfo)
        end
        info = summary(tvb, texts)
    end
    pinfo.cols.info = refused and ("[%s] %s"):format(refused, info) or info
    root:append_text(", " .. info)
    return captured
end

DissectorTable.get("ip.proto"):add(IP_PROTOCOL, clusterd)
