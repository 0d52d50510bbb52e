//! The words that the files of `proto-spec/vectors` have in common.

// Each test crate uses its own part of it.
#![allow(dead_code)]

use clusterd::flow::{AttemptId, NodeId, VipHash};
use clusterd::wire::{Contest, Entry, Flags, FurtherPort, Report};

/// An entry; `attempt` says what is written for the id of an attempt.
pub fn entry(text: &str, attempt: impl Fn(&str) -> AttemptId) -> Entry {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["HELLO", ref ports @ ..] => Entry::Hello { unavailable: self::ports(ports) },
        ["HELLO-UDP", ref ports @ ..] => Entry::HelloUdp { unavailable: self::ports(ports) },
        ["VIPS", ref hashes @ ..] => {
            Entry::Vips { further: hashes.iter().map(|hash| vip_hash(hash)).collect() }
        }
        ["VIPS-TCP", ref ports @ ..] => Entry::VipsTcp { unavailable: further_ports(ports) },
        ["VIPS-UDP", ref ports @ ..] => Entry::VipsUdp { unavailable: further_ports(ports) },
        ["HEARD", ref reports @ ..] => {
            Entry::Heard { reports: reports.chunks(4).map(report).collect() }
        }
        [kind, name, "port", port, "try", tries, "rank", rank] => {
            let contest = Contest {
                attempt: attempt(name),
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

fn ports(words: &[&str]) -> Vec<u16> {
    words.iter().map(|port| port.parse().unwrap()).collect()
}

/// `PLACE:PORT` each.
fn further_ports(words: &[&str]) -> Vec<FurtherPort> {
    let port = |word: &&str| {
        let (place, port) = word.split_once(':').expect("place:port");
        FurtherPort { place: place.parse().unwrap(), port: port.parse().unwrap() }
    };
    words.iter().map(port).collect()
}

pub fn vip_hash(text: &str) -> VipHash {
    VipHash(u32::from_str_radix(text, 16).unwrap())
}

fn report(words: &[&str]) -> Report {
    let [heard, incarnation, highest, missing] = *words else { panic!("four words a report") };
    Report {
        node: node(heard),
        incarnation: self::incarnation(incarnation),
        highest: highest.parse().unwrap(),
        missing: missing.parse().unwrap(),
    }
}

/// The flags of a header; other words are none.
pub fn flags(words: &str) -> Flags {
    let is_set = |flag| words.split(' ').any(|word| word == flag);
    Flags {
        joining: is_set("joining"),
        leaving: is_set("leaving"),
        hash: is_set("hash"),
        deaf: is_set("deaf"),
        mute: is_set("mute"),
    }
}

pub fn incarnation(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap()
}

pub fn node(text: &str) -> NodeId {
    NodeId(u32::from_str_radix(text, 16).unwrap())
}

pub fn id(text: &str) -> AttemptId {
    AttemptId(unhex(text).try_into().expect("16 bytes"))
}

pub fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "half a byte in {digits}");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
