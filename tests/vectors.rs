//! The golden vectors of `proto-spec/vectors`, in both directions.
//!
//! The files are written for people and for every implementation; their numbers
//! come from an implementation of SipHash that shares nothing with this one.

use std::net::{IpAddr, SocketAddr};

use clusterd::flow::{AttemptId, ClusterKey, FlowKey, NodeId};
use clusterd::wire::{Contest, Entry, Flags, Frame, Header, KeyRing, Report, decode, encode};

const FRAMES: &str = include_str!("../proto-spec/vectors/frames.txt");
const HASHES: &str = include_str!("../proto-spec/vectors/hashes.txt");

fn key() -> ClusterKey {
    ClusterKey::public([10, 0, 0, 2].into())
}

fn ring() -> KeyRing {
    key().into()
}

#[test]
fn frames_decode_and_encode_as_written() {
    let blocks: Vec<Block> = FRAMES.split("\n\n").filter_map(Block::parse).collect();
    let count = |word| blocks.iter().filter(|block| block.get(word).is_some()).count();
    assert_eq!((blocks.len(), count("refused"), count("one-way")), (42, 23, 5));
    for block in &blocks {
        let name = block.get("frame").expect("a block names its frame");
        let bytes = block.bytes();
        assert!(block.get("receiver").is_some(), "{name} tells what a receiver does");
        if let Some(rule) = block.get("refused") {
            let refused = decode(&bytes, &ring()).expect_err(name);
            assert_eq!(refused.to_string(), rule, "{name}");
            continue;
        }
        let frame = block.frame();
        assert_eq!(decode(&bytes, &ring()).as_ref(), Ok(&frame), "{name}");
        let same = encode(&frame, &ring()) == bytes;
        assert_eq!(same, block.get("one-way").is_none(), "{name} encodes to the same bytes");
    }
}

#[test]
fn hashes_are_as_written() {
    let facts = HASHES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut checked = 0;
    for fact in facts {
        let (question, answer) = fact.split_once(" = ").expect("a fact has two sides");
        let words: Vec<&str> = question.split(' ').collect();
        assert_eq!(answer_to(&words, answer), answer, "{question}");
        checked += 1;
    }
    assert_eq!(checked, 36);
}

/// What this implementation says; `key` only confirms the key that is written.
fn answer_to(words: &[&str], written: &str) -> String {
    match *words {
        ["key", vip] => {
            let public = ClusterKey::public(vip.parse::<IpAddr>().unwrap());
            let (bytes, _) = written.split_once(' ').expect("key and cluster id");
            assert_eq!(ClusterKey::new(id(bytes).0), public);
            format!("{bytes} {:08x}", public.cluster_id())
        }
        ["attempt", client, service, isn] => {
            hex(&key().attempt(&flow(client, service), isn.parse().unwrap()).0)
        }
        ["flow", client, service] => format!("{:016x}", key().flow(&flow(client, service)).0),
        ["weight", hash, node] => {
            format!("{:016x}", key().weight(flow_hash(hash), self::node(node)))
        }
        ["order", client, service] => {
            let hash = key().flow(&flow(client, service));
            ordered(written, |node| std::cmp::Reverse(key().weight(hash, node)))
        }
        ["tie", attempt, node] => {
            format!("{:016x}", key().tie_break(id(attempt), self::node(node)))
        }
        ["winner", attempt] => ordered(written, |node| key().tie_break(id(attempt), node)),
        _ => panic!("no hash is called {words:?}"),
    }
}

fn ordered<K: Ord>(nodes: &str, order: impl Fn(NodeId) -> K) -> String {
    let mut nodes: Vec<NodeId> = nodes.split(' ').map(node).collect();
    nodes.sort();
    nodes.sort_by_key(|&node| order(node));
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

/// Lines of `word: value` about one frame.
struct Block(Vec<(&'static str, &'static str)>);

impl Block {
    fn parse(text: &'static str) -> Option<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pairs: Vec<_> = lines.map(|line| line.split_once(':').expect("word: value")).collect();
        let trimmed = pairs.iter().map(|&(word, value)| (word, value.trim())).collect();
        (!pairs.is_empty()).then_some(Self(trimmed))
    }

    fn all(&self, word: &str) -> impl Iterator<Item = &'static str> {
        self.0.iter().filter(move |&&(other, _)| other == word).map(|&(_, value)| value)
    }

    fn get(&self, word: &str) -> Option<&'static str> {
        self.all(word).next()
    }

    fn value(&self, word: &str) -> &'static str {
        self.get(word).unwrap_or_else(|| panic!("{word} is missing"))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in self.all("hex").flat_map(str::split_whitespace) {
            let (digits, times) = part.split_once('*').unwrap_or((part, "1"));
            bytes.extend(unhex(digits).repeat(times.parse().unwrap()));
        }
        bytes
    }

    fn frame(&self) -> Frame {
        let flags = self.value("flags");
        let is_set = |flag| flags.split(' ').any(|word| word == flag);
        let header = Header {
            minor: self.get("minor").map_or(0, |minor| minor.parse().unwrap()),
            node: node(self.value("node")),
            incarnation: u64::from_str_radix(self.value("incarnation"), 16).unwrap(),
            sequence: self.value("sequence").parse().unwrap(),
            flags: Flags {
                joining: is_set("joining"),
                leaving: is_set("leaving"),
                hash: is_set("hash"),
                deaf: is_set("deaf"),
                mute: is_set("mute"),
            },
        };
        Frame { header, entries: self.all("entry").map(entry).collect() }
    }
}

fn entry(text: &str) -> Entry {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["HELLO", ref ports @ ..] => {
            Entry::Hello { unavailable: ports.iter().map(|port| port.parse().unwrap()).collect() }
        }
        ["HELLO-UDP", ref ports @ ..] => Entry::HelloUdp {
            unavailable: ports.iter().map(|port| port.parse().unwrap()).collect(),
        },
        ["HEARD", ref reports @ ..] => {
            Entry::Heard { reports: reports.chunks(4).map(report).collect() }
        }
        [kind, attempt, "port", port, "try", tries, "rank", rank] => {
            let contest = Contest {
                attempt: id(attempt),
                port: port.parse().unwrap(),
                tries: tries.parse().unwrap(),
                rank: rank.parse().unwrap(),
            };
            match kind {
                "CLAIM" => Entry::Claim(contest),
                "OWN" => Entry::Own(contest),
                "RELEASE" => Entry::Release(contest),
                _ => panic!("no kind is called {kind}"),
            }
        }
        _ => panic!("not an entry: {text}"),
    }
}

fn report(words: &[&str]) -> Report {
    let [heard, incarnation, highest, missing] = *words else { panic!("four words a report") };
    Report {
        node: node(heard),
        incarnation: u64::from_str_radix(incarnation, 16).unwrap(),
        highest: highest.parse().unwrap(),
        missing: missing.parse().unwrap(),
    }
}

fn flow(client: &str, service: &str) -> FlowKey {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    FlowKey::tcp(address(client), address(service))
}

fn flow_hash(text: &str) -> clusterd::flow::FlowHash {
    clusterd::flow::FlowHash(u64::from_str_radix(text, 16).unwrap())
}

fn node(text: &str) -> NodeId {
    NodeId(u32::from_str_radix(text, 16).unwrap())
}

fn id(text: &str) -> AttemptId {
    AttemptId(unhex(text).try_into().expect("16 bytes"))
}

fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "half a byte in {digits}");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
