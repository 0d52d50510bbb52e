//! The golden vectors of `proto-spec/vectors`, in both directions.
//!
//! The files are written for people and for every implementation; their numbers come
//! from implementations of the hash functions that share nothing with those used here.

#[path = "common/words.rs"]
mod words;

use std::cmp::Reverse;
use std::net::SocketAddr;

use clusterd::bucket::{Bucket, bucket};
use clusterd::flow::{ClusterKey, FlowHash, FlowKey, NodeId};
use clusterd::wire::{DecodeError, Frame, Header, KeyRing, Policy, Secret, decode, encode};

use words::{entry, flags, hex, id, incarnation, node, unhex};

const FRAMES: &str = include_str!("../proto-spec/vectors/frames.txt");
const HASHES: &str = include_str!("../proto-spec/vectors/hashes.txt");

fn key() -> ClusterKey {
    ClusterKey::public([10, 0, 0, 2].into())
}

#[test]
fn frames_decode_and_encode_as_written() {
    let blocks: Vec<Block> = FRAMES.split("\n\n").filter_map(Block::parse).collect();
    let count = |word| blocks.iter().filter(|block| block.get(word).is_some()).count();
    assert_eq!((blocks.len(), count("refused"), count("one-way")), (117, 56, 13));
    for block in &blocks {
        let name = block.get("frame").expect("a block names its frame");
        let bytes = block.bytes();
        let ring = block.ring();
        assert!(block.get("receiver").is_some(), "{name} tells what a receiver does");
        if let Some(rule) = block.get("refused") {
            let refused = decode(&bytes, &ring).expect_err(name);
            assert_eq!(refused.to_string(), rule, "{name}");
            let believed = match refused {
                DecodeError::Version { header, .. } => Some(header),
                _ => None,
            };
            assert_eq!(believed, block.get("node").map(|_| block.header()), "{name}");
            continue;
        }
        let frame = block.frame();
        assert_eq!(decode(&bytes, &ring).as_ref(), Ok(&frame), "{name}");
        let same = encode(&frame, &ring) == bytes;
        assert_eq!(same, block.get("one-way").is_none(), "{name} encodes to the same bytes");
    }
}

#[test]
fn hashes_are_as_written() {
    let facts = HASHES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut key, mut checked) = (key(), 0);
    for fact in facts {
        if let Some(vip) = fact.strip_prefix("vip ") {
            key = ClusterKey::public(vip.parse().unwrap());
            continue;
        }
        let (question, answer) = fact.split_once(" = ").expect("a fact has two sides");
        let words: Vec<&str> = question.split(' ').collect();
        assert_eq!(answer_to(&key, &words, answer), answer, "{question}");
        checked += 1;
    }
    assert_eq!(checked, 147);
}

/// What this implementation says; keys and orders of nodes only confirm what is written.
fn answer_to(key: &ClusterKey, words: &[&str], written: &str) -> String {
    match *words {
        ["key", vip] => {
            let public = ClusterKey::public(vip.parse().unwrap());
            let (bytes, _) = written.split_once(' ').expect("key and cluster id");
            assert_eq!(ClusterKey::new(id(bytes).0), public);
            format!("{bytes} {:08x}", public.cluster_id())
        }
        ["attempt", "udp", client, service] => hex(&key.attempt(&udp(client, service), 0).0),
        ["attempt", client, service, isn] => {
            hex(&key.attempt(&tcp(client, service), isn.parse().unwrap()).0)
        }
        ["flow", "udp", client, service] => format!("{:016x}", key.flow(&udp(client, service)).0),
        ["flow", client, service] => format!("{:016x}", key.flow(&tcp(client, service)).0),
        ["weight", hash, node] => {
            format!("{:016x}", key.weight(flow_hash(hash), self::node(node)))
        }
        ["order", "udp", client, service] => by_weight(key, &udp(client, service), written),
        ["order", client, service] => by_weight(key, &tcp(client, service), written),
        ["tie", attempt, node] => format!("{:016x}", key.tie_break(id(attempt), self::node(node))),
        ["winner", attempt] => ordered(written, |node| key.tie_break(id(attempt), node)),
        ["seed", vip] => {
            format!("{:08x}", ClusterKey::public(vip.parse().unwrap()).bucket_seed())
        }
        ["bucket", seed, client] => {
            let seed = u32::from_str_radix(seed, 16).unwrap();
            bucket(seed, client.parse().unwrap()).0.to_string()
        }
        ["bucket-weight", bucket, node] => {
            let bucket = Bucket(bucket.parse().unwrap());
            format!("{:016x}", key.bucket_weight(bucket, self::node(node)))
        }
        ["bucket-order", bucket] => {
            let bucket = Bucket(bucket.parse().unwrap());
            ordered(written, |node| Reverse(key.bucket_weight(bucket, node)))
        }
        ["leaders", ref nodes @ ..] => {
            let nodes: Vec<NodeId> = nodes.iter().map(|text| node(text)).collect();
            let leads = |bucket, place: &usize| key.bucket_weight(bucket, nodes[*place]);
            let leader = |bucket| (0..nodes.len()).max_by_key(|place| leads(bucket, place));
            Bucket::all().filter_map(leader).map(|place| place.to_string()).collect()
        }
        ["other-node", taken, incarnation] => {
            key.other_node_id(node(taken), self::incarnation(incarnation)).to_string()
        }
        ["further", vip] => format!("{:08x}", key.vip(vip.parse().unwrap()).0),
        ["secret", secret] => {
            let secret = Secret::new(&unhex(secret).try_into().expect("32 bytes"));
            let (_, frame_key) = written.split_once(' ').expect("key id and frame key");
            let id = secret.id();
            assert_signs_with(
                &KeyRing::with_secrets(*key, vec![secret], Policy::Enforce),
                frame_key,
            );
            format!("{id:02x} {frame_key}")
        }
        _ => panic!("no hash is called {words:?}"),
    }
}

/// The trailer of a frame is keyed BLAKE3 under `frame_key` (spec 3.4).
fn assert_signs_with(ring: &KeyRing, frame_key: &str) {
    let bytes = encode(&Frame::default(), ring);
    let (signed, tag) = bytes.split_at(bytes.len() - 16);
    let frame_key = unhex(frame_key).try_into().expect("32 bytes");
    assert_eq!(blake3::keyed_hash(&frame_key, signed).as_bytes()[..16], *tag);
}

fn by_weight(key: &ClusterKey, flow: &FlowKey, nodes: &str) -> String {
    ordered(nodes, |node| Reverse(key.weight(key.flow(flow), node)))
}

fn ordered<K: Ord>(nodes: &str, order: impl Fn(NodeId) -> K) -> String {
    let mut nodes: Vec<NodeId> = nodes.split(' ').map(node).collect();
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

    /// The keys of the receiver.
    fn ring(&self) -> KeyRing {
        let Some(secrets) = self.get("secrets") else { return key().into() };
        let secret = |digits| Secret::new(&unhex(digits).try_into().expect("32 bytes"));
        let policy = match self.value("policy") {
            "receive-only" => Policy::ReceiveOnly,
            "permissive" => Policy::Permissive,
            "enforce" => Policy::Enforce,
            other => panic!("no policy is called {other}"),
        };
        KeyRing::with_secrets(key(), secrets.split(' ').map(secret).collect(), policy)
    }

    fn frame(&self) -> Frame {
        Frame {
            header: self.header(),
            entries: self.all("entry").map(|text| entry(text, id)).collect(),
        }
    }

    fn header(&self) -> Header {
        Header {
            minor: self.get("minor").map_or(0, |minor| minor.parse().unwrap()),
            node: node(self.value("node")),
            incarnation: incarnation(self.value("incarnation")),
            sequence: self.value("sequence").parse().unwrap(),
            flags: flags(self.value("flags")),
        }
    }
}

fn tcp(client: &str, service: &str) -> FlowKey {
    FlowKey::tcp(address(client), address(service))
}

fn udp(client: &str, service: &str) -> FlowKey {
    FlowKey::udp(address(client), address(service))
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn flow_hash(text: &str) -> FlowHash {
    FlowHash(u64::from_str_radix(text, 16).unwrap())
}
