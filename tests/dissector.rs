//! The dissector of `proto-spec/clusterd.lua` against the golden vectors: it was written
//! from the specification, so where it differs from the daemon one of them is wrong.

#[path = "common/tshark.rs"]
mod tshark;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use tshark::{File, all, dissect, is_missing, number, packet, siphash, unhex};

const FRAMES: &str = include_str!("../proto-spec/vectors/frames.txt");
const HASHES: &str = include_str!("../proto-spec/vectors/hashes.txt");
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
const TTL: u8 = 255;
const WHOLE: usize = usize::MAX;
const KEY_ID: usize = 14;
const FLAGS: [&str; 5] = ["joining", "leaving", "hash", "deaf", "mute"];

#[test]
fn every_vector_is_dissected_as_written() {
    if is_missing() {
        return;
    }
    let vectors: Vec<Vector> = FRAMES.split("\n\n").filter_map(Vector::parse).collect();
    let packets: Vec<_> = vectors.iter().map(|it| packet(VIP, TTL, &it.bytes)).collect();
    let layers = dissect(File::new("vectors", &packets, WHOLE).path());
    assert_eq!(layers.len(), vectors.len());
    for (vector, layer) in vectors.iter().zip(&layers) {
        vector.check(layer);
    }
}

/// Lines of `word: value` about one frame.
struct Vector {
    lines: Vec<(&'static str, &'static str)>,
    bytes: Vec<u8>,
}

impl Vector {
    fn parse(text: &'static str) -> Option<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let lines: Vec<_> = lines
            .map(|line| line.split_once(':').expect("word: value"))
            .map(|(word, value)| (word, value.trim()))
            .collect();
        let mut bytes = Vec::new();
        let hex = lines.iter().filter(|&&(word, _)| word == "hex");
        for part in hex.flat_map(|(_, value)| value.split_whitespace()) {
            let (digits, times) = part.split_once('*').unwrap_or((part, "1"));
            bytes.extend(unhex(digits).repeat(times.parse().expect("a number")));
        }
        (!lines.is_empty()).then_some(Self { lines, bytes })
    }

    fn all(&self, word: &str) -> impl Iterator<Item = &'static str> {
        self.lines.iter().filter(move |&&(other, _)| other == word).map(|&(_, value)| value)
    }

    fn value(&self, word: &str) -> &'static str {
        self.all(word).next().unwrap_or_else(|| panic!("{}: {word} is missing", self.name()))
    }

    fn name(&self) -> &'static str {
        self.all("frame").next().expect("a block names its frame")
    }

    fn check(&self, layer: &Value) {
        let name = self.name();
        if self.bytes.is_empty() {
            // Wireshark's IP dissector hands an empty payload to nobody.
            assert_eq!(layer, &Value::Null, "{name}");
            return;
        }
        let keyed = self.bytes.get(KEY_ID).is_some_and(|&key_id| key_id != 0);
        let enforced = self.all("policy").any(|policy| policy == "enforce");
        match self.all("refused").next().map(rule) {
            // Who has not the key, or does not know what a receiver asks for, cannot say so.
            Some("tag") if keyed || enforced => assert_eq!(refusal(layer), None, "{name}"),
            rule => assert_eq!(refusal(layer), rule, "{name}: {layer:#}"),
        }
        if self.all("node").next().is_none() {
            return;
        }
        let status = if keyed { "not verifiable without the key" } else { "verified" };
        assert_eq!(layer["clusterd.tag.status"], status, "{name}");
        let hexadecimal = |word| u64::from_str_radix(self.value(word), 16).expect(word);
        assert_eq!(number(&layer["clusterd.node"]), hexadecimal("node"), "{name}");
        assert_eq!(number(&layer["clusterd.incarnation"]), hexadecimal("incarnation"), "{name}");
        assert_eq!(layer["clusterd.sequence"], self.value("sequence"), "{name}");
        let flag =
            |flag: &&&str| layer["clusterd.flags_tree"][format!("clusterd.flags.{flag}")] == "1";
        let flags: BTreeSet<&str> = FLAGS.iter().filter(flag).copied().collect();
        let written = self.value("flags").split(' ').filter(|&flag| flag != "none");
        assert_eq!(flags, written.collect(), "{name}");
        let entries: Vec<String> = all(layer, "clusterd.entry").iter().filter_map(entry).collect();
        assert_eq!(entries, self.all("entry").collect::<Vec<_>>(), "{name}");
        self.check_plain_fields(layer);
    }

    /// What a vector does not spell out, since it only has one reading.
    fn check_plain_fields(&self, layer: &Value) {
        let byte = |at: usize| u64::from(self.bytes[at]);
        for (field, at) in [
            ("major", 2),
            ("minor", 3),
            ("flags", 12),
            ("count", 13),
            ("key_id", KEY_ID),
            ("reserved", 15),
        ] {
            let value = &layer[format!("clusterd.{field}")];
            assert_eq!(number(value), byte(at), "{}: {field}", self.name());
        }
        assert_eq!(number(&layer["clusterd.magic"]), 0xc15d);
        let cluster = self.bytes[4..8].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        assert_eq!(number(&layer["clusterd.cluster"]), cluster);
        let tag = &self.bytes[self.bytes.len() - 16..];
        assert_eq!(colons(&layer["clusterd.tag"]), hex(tag), "{}", self.name());
    }
}

/// The counter under which the daemon counts a frame (spec 3.5).
fn rule(text: &str) -> &'static str {
    let rules = [
        ("truncated: ", "truncated"),
        ("bytes, at most", "too_long"),
        ("magic ", "magic"),
        ("major version ", "version"),
        ("cluster id ", "cluster"),
        ("wrong tag", "tag"),
        ("kind ", "malformed"),
        ("after the last entry", "malformed"),
    ];
    let found = rules.iter().find(|(words, _)| text.contains(words));
    found.unwrap_or_else(|| panic!("no rule says {text:?}")).1
}

/// The rule that the dissector names: once as a field, once as expert info.
fn refusal(layer: &Value) -> Option<&str> {
    let mut experts = BTreeSet::new();
    collect_experts(layer, &mut experts);
    let field = layer.get("clusterd.refused").map(|value| value.as_str().expect("one rule"));
    assert_eq!(experts.into_iter().collect::<Vec<_>>(), Vec::from_iter(field));
    field
}

fn collect_experts<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                found.extend(name.strip_prefix("clusterd.refused."));
                collect_experts(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_experts(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An entry in the words of the vectors; `None` for an unknown kind, which a receiver skips.
fn entry(entry: &Value) -> Option<String> {
    let field = |name: &str| entry[format!("clusterd.{name}")].as_str().expect("a field");
    let ports = |kind: &str, name| {
        let ports = all(entry, name).iter().map(|port| port.as_str().expect("a port"));
        [kind].into_iter().chain(ports).collect::<Vec<_>>().join(" ")
    };
    let further = |kind: &str, name: &str| {
        all(entry, name).iter().fold(kind.to_string(), |text, further| {
            let [place, port] =
                ["place", "port"].map(|it| number(&further[format!("{name}.{it}")]));
            format!("{text} {place}:{port}")
        })
    };
    let contest = |kind: &str| {
        let attempt = colons(&entry["clusterd.attempt"]);
        let [port, tries, rank] = ["port", "try", "rank"].map(field);
        format!("{kind} {attempt} port {port} try {tries} rank {rank}")
    };
    Some(match field("kind") {
        "1" => contest("CLAIM"),
        "2" => contest("OWN"),
        "3" => contest("RELEASE"),
        "4" => ports("HELLO", "clusterd.unavailable.tcp"),
        "5" => all(entry, "clusterd.heard").iter().fold("HEARD".into(), |text, heard| {
            let [node, incarnation, sequence, missing] =
                ["node", "incarnation", "sequence", "missing"]
                    .map(|name| number(&heard[format!("clusterd.heard.{name}")]));
            format!("{text} {node:08x} {incarnation:x} {sequence} {missing}")
        }),
        "6" => ports("HELLO-UDP", "clusterd.unavailable.udp"),
        "7" => all(entry, "clusterd.vip")
            .iter()
            .fold("VIPS".into(), |text, vip| format!("{text} {:08x}", number(vip))),
        "8" => further("VIPS-TCP", "clusterd.further.tcp"),
        "9" => further("VIPS-UDP", "clusterd.further.udp"),
        _ => return None,
    })
}

#[test]
fn keys_are_derived_as_written() {
    if is_missing() {
        return;
    }
    let keys: Vec<_> = keys().collect();
    let packets: Vec<_> = keys
        .iter()
        .map(|(vip, key, cluster)| packet(*vip, TTL, &tagged(key, &header(cluster, 1, 1), &[])))
        .collect();
    let layers = dissect(File::new("keys", &packets, WHOLE).path());
    for ((vip, key, cluster), layer) in keys.iter().zip(&layers) {
        assert_eq!(layer["clusterd.public_key"], hex(key), "{vip}");
        let expected = &layer["clusterd.cluster_tree"]["clusterd.cluster.expected"];
        assert_eq!(number(expected), number(&format!("0x{}", hex(cluster)).into()), "{vip}");
        assert_eq!(layer["clusterd.tag.status"], "verified", "{vip}");
        assert_eq!(refusal(layer), None, "{vip}");
    }
    assert_eq!(layers.len(), 3);
}

/// Every remainder of the hash's blocks, and the longest frames.
#[test]
fn the_trailer_is_verified_at_every_length() {
    if is_missing() {
        return;
    }
    let (key, header) = (public_key(VIP), header(&cluster(), 1, 1));
    let bodies: Vec<usize> = (2..=140).chain(1320..=1332).collect();
    let frames: Vec<_> = bodies.iter().map(|&len| tagged(&key, &header, &filler(len))).collect();
    let packets: Vec<_> = frames.iter().map(|frame| packet(VIP, TTL, frame)).collect();
    let layers = dissect(File::new("lengths", &packets, WHOLE).path());
    for (len, layer) in bodies.iter().zip(&layers) {
        assert_eq!(layer["clusterd.tag.status"], "verified", "{len}");
        assert_eq!(refusal(layer), None, "{len}");
    }
    assert_eq!(layers.len(), bodies.len());
}

/// Entries of an unknown kind that take `len` bytes together.
fn filler(len: usize) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    let mut rest = len;
    while rest > 0 {
        // Never leave one byte: no entry is as short as that.
        let size = if rest <= 250 { rest } else { 200 };
        let mut entry = vec![200, size as u8];
        entry.extend((2..size).map(|at| (at * 7 + len) as u8));
        entries.push(entry);
        rest -= size;
    }
    entries
}

#[test]
fn the_ttl_comes_before_all_other_rules() {
    if is_missing() {
        return;
    }
    let good = tagged(&public_key(VIP), &header(&cluster(), 1, 1), &[]);
    let packets = [packet(VIP, 254, &good), packet(VIP, 64, &good[..20]), packet(VIP, TTL, &good)];
    let layers = dissect(File::new("ttl", &packets, WHOLE).path());
    let rules: Vec<_> = layers.iter().map(refusal).collect();
    assert_eq!(rules, [Some("ttl"), Some("ttl"), None]);
}

/// A later major version has the same header and trailer; its entries are unknown.
#[test]
fn of_another_major_version_the_header_is_shown() {
    if is_missing() {
        return;
    }
    let mut header = header(&cluster(), 1, 7);
    header[2] = 2;
    let frame = tagged(&public_key(VIP), &header, &[vec![1, 2]]);
    let layers = dissect(File::new("major", &[packet(VIP, TTL, &frame)], WHOLE).path());
    assert_eq!(refusal(&layers[0]), Some("version"));
    assert_eq!(layers[0]["clusterd.tag.status"], "verified");
    assert_eq!(layers[0]["clusterd.sequence"], "7");
    assert_eq!(all(&layers[0], "clusterd.entry"), [] as [Value; 0]);
}

#[test]
fn gaps_repetitions_and_attempts_are_followed() {
    if is_missing() {
        return;
    }
    let key = public_key(VIP);
    let contest = |kind: u8, attempt: u8| {
        let mut entry = vec![kind, 22];
        entry.extend([attempt; 16]);
        entry.extend([0, 80, 0, 1]);
        entry
    };
    let frame = |incarnation, sequence, entries: &[Vec<u8>]| {
        tagged(&key, &header(&cluster(), incarnation, sequence), entries)
    };
    let mut forged = frame(1, 1000, &[contest(2, 0xbb)]);
    *forged.last_mut().expect("a trailer") ^= 1;
    let frames = [
        frame(1, 3, &[contest(1, 0xaa)]),
        frame(1, 4, &[]),
        forged,
        frame(1, 7, &[contest(2, 0xaa), contest(1, 0xbb)]),
        frame(1, 7, &[contest(2, 0xbb)]),
        frame(1, 6, &[]),
        frame(2, 1, &[]),
        frame(1, 8, &[]),
        frame(2, u64::MAX, &[]),
    ];
    let packets: Vec<_> = frames.iter().map(|frame| packet(VIP, TTL, frame)).collect();
    let layers = dissect(File::new("analysis", &packets, WHOLE).path());
    let gaps: Vec<_> = layers.iter().map(|layer| layer.get("clusterd.gap").map(number)).collect();
    let mut expected = [None; 9];
    expected[3] = Some(2);
    expected[8] = Some(u64::MAX - 2);
    assert_eq!(gaps, expected);
    let repeated = |&at: &usize| layers[at].get("clusterd.repeated").is_some();
    assert_eq!((0..frames.len()).filter(repeated).collect::<Vec<_>>(), [4, 5]);
    let first = |layer: usize, entry: usize| {
        let entry = &all(&layers[layer], "clusterd.entry")[entry];
        let seconds = entry["clusterd.attempt.since"].as_str();
        entry.get("clusterd.attempt.first").map(|frame| (number(frame), seconds.unwrap()))
    };
    let links = [first(0, 0), first(3, 0), first(3, 1), first(4, 0)];
    let after = |frame, time| Some((frame, time));
    assert_eq!(links, [None, after(1, "3.000000000"), None, after(4, "1.000000000")]);
}

#[test]
fn the_info_column_is_one_line_per_frame() {
    if is_missing() {
        return;
    }
    let vector = |name: &str| {
        let all = FRAMES.split("\n\n").filter_map(Vector::parse);
        all.into_iter().find(|it| it.name() == name).expect("a vector").bytes
    };
    let packets =
        ["own", "batch", "vips-tcp", "leaving", "tag-bit"].map(|it| packet(VIP, TTL, &vector(it)));
    let file = File::new("info", &packets, WHOLE);
    let text = tshark::run(file.path(), &["-T", "fields", "-e", "_ws.col.Info"]);
    let expected = "\
7f3a9c21 #9, OWN 95269ebe port 80 try 0 rank 1
7f3a9c21 #9, OWN 95269ebe port 80 try 0 rank 1, CLAIM 26876243 port 443 try 3 rank 2, HELLO unavailable 8080
7f3a9c21 #9, VIPS 1c358035 0c5c4872, VIPS-TCP unavailable 1:80 2:80 2:65535
7f3a9c21 #9 leaving
[tag] 7f3a9c21 #9, CLAIM 95269ebe port 80 try 0 rank 1
";
    assert_eq!(text, expected);
}

/// No bytes and no cut are an error of the dissector ([`tshark::run`] looks for one), and
/// what was not captured is not called truncated.
#[test]
fn no_bytes_raise_an_error() {
    if is_missing() {
        return;
    }
    let good: Vec<_> = FRAMES.split("\n\n").filter_map(Vector::parse).map(|it| it.bytes).collect();
    let mut packets = Vec::new();
    for round in 0..2000u64 {
        let random = siphash(&[0; 16], &round.to_be_bytes());
        let [which, at, bit, cut, random @ ..] = random.map(usize::from);
        let mut bytes = good[which % good.len()].clone();
        if bytes.is_empty() {
            bytes.extend(random.map(|byte| byte as u8));
        }
        let at = (at * 256 + random[0]) % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        if cut % 2 == 0 {
            bytes.truncate(1 + at);
        }
        packets.push(packet(VIP, TTL, &bytes));
    }
    let file = File::new("noise", &packets, WHOLE);
    let layers = dissect(file.path());
    assert_eq!(layers.len(), packets.len());
    assert!(layers.iter().all(Value::is_object));
    packets.truncate(100);
    let frame = tagged(&public_key(VIP), &header(&cluster(), 1, 1), &filler(60));
    packets[0] = packet(VIP, TTL, &frame);
    for snaplen in [35, 60, 66, 75, 100] {
        let layers = dissect(File::new("cut", &packets, snaplen).path());
        assert_eq!(layers.len(), packets.len());
        assert_eq!(refusal(&layers[0]), None, "{snaplen}");
    }
}

/// `key VIP = KEY CLUSTER_ID`
fn keys() -> impl Iterator<Item = (IpAddr, Vec<u8>, Vec<u8>)> {
    HASHES.lines().filter_map(|line| {
        let mut words =
            line.strip_prefix("key ")?.split([' ', '=']).filter(|word| !word.is_empty());
        let vip = words.next()?.parse().expect("an address");
        Some((vip, unhex(words.next()?), unhex(words.next()?)))
    })
}

fn public_key(vip: IpAddr) -> Vec<u8> {
    keys().find(|(other, ..)| *other == vip).expect("a key of this address").1
}

fn cluster() -> Vec<u8> {
    keys().find(|(other, ..)| *other == VIP).expect("a key of this address").2
}

/// A header without entries (spec 3.2).
fn header(cluster: &[u8], incarnation: u64, sequence: u64) -> Vec<u8> {
    let mut bytes = vec![0xc1, 0x5d, 1, 1];
    bytes.extend(cluster);
    bytes.extend([0x7f, 0x3a, 0x9c, 0x21, 0, 0, 0, 0]);
    bytes.extend(incarnation.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes
}

fn tagged(key: &[u8], header: &[u8], entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = header.to_vec();
    bytes[13] = entries.len() as u8;
    bytes.extend(entries.concat());
    bytes.extend(siphash(key, &bytes));
    bytes
}

fn colons(value: &Value) -> String {
    value.as_str().expect("bytes").replace(':', "")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
