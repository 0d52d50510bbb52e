//! The claim frame of spec section 3.

use std::fmt;

use bincode::config::{BigEndian, Configuration, Fixint, Limit};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::flow::{AttemptId, ClusterKey, NodeId};

/// IP protocol number of claim frames. Unassigned by IANA (148 to 252 are).
pub const IP_PROTOCOL: u8 = 150;
/// The IP TTL that every frame is sent with and must arrive with: anything
/// lower crossed a router (RFC 5082, the generalised TTL security mechanism).
pub const TTL: u8 = 255;
/// First two bytes of every frame of every version.
pub const MAGIC: u16 = 0xC15D;
/// Frames of another major version are counted and refused.
pub const MAJOR: u8 = 1;
/// A higher minor version adds entry kinds, which are skipped by length.
pub const MINOR: u8 = 0;
/// Longest frame in bytes, so that it fits a 1400 byte MTU with its IP header.
pub const FRAME_MAX: usize = 1380;
/// Most ports that one HELLO lists as unavailable.
pub const PORTS_MAX: usize = 64;

const HEADER_LEN: usize = 32;
const ENTRY_HEADER_LEN: usize = 2;
const CONTEST_LEN: usize = 20;
const TAG_LEN: usize = 16;

const KIND_CLAIM: u8 = 1;
const KIND_OWN: u8 = 2;
const KIND_RELEASE: u8 = 3;
const KIND_HELLO: u8 = 4;

const FLAG_JOINING: u8 = 1;
const FLAG_LEAVING: u8 = 2;

type Config = Configuration<BigEndian, Fixint, Limit<FRAME_MAX>>;
const CONFIG: Config = bincode::config::standard()
    .with_big_endian()
    .with_fixed_int_encoding()
    .with_limit::<FRAME_MAX>();

/// Who sent a frame, and where it stands among that sender's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The sender.
    pub node: NodeId,
    /// Grows with every start of the sender's daemon.
    pub incarnation: u64,
    /// Counts the frames of one incarnation, without gaps.
    pub sequence: u64,
    /// The sender only listens yet and must not be ranked.
    pub joining: bool,
    /// The sender's last frame: it must not be ranked any more.
    pub leaving: bool,
}

/// What an entry says about one connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contest {
    /// The attempt.
    pub attempt: AttemptId,
    /// Port of the service, for eligibility.
    pub port: u16,
    /// How many times this attempt has been contested before.
    pub tries: u8,
    /// 0 for the incumbent, else 1 + position in the sender's rank order.
    pub rank: u8,
}

/// One statement in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// "I want this attempt": others defer to the best claim for a while.
    Claim(Contest),
    /// "My kernel has sent a SYN-ACK": others drop their copy of the SYN.
    Own(Contest),
    /// "I pass, or failed": the contest goes on without the sender.
    Release(Contest),
    /// The TCP ports that the sender cannot serve now.
    Hello {
        /// Ports without a listener, at most [`PORTS_MAX`].
        unavailable: Vec<u16>,
    },
}

/// A decoded claim frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Sender and position.
    pub header: Header,
    /// Statements in the order in which they were made.
    pub entries: Vec<Entry>,
}

/// Why bytes were refused. Each is counted under its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Shorter than header and tag, or an entry runs past the end.
    #[error("truncated: {0} bytes")]
    Truncated(usize),
    /// Longer than [`FRAME_MAX`].
    #[error("{0} bytes, at most {FRAME_MAX} allowed")]
    TooLong(usize),
    /// Not a claim frame at all.
    #[error("magic {0:#06x}, not {MAGIC:#06x}")]
    Magic(u16),
    /// A version this build does not speak.
    #[error("major version {0}, this build speaks {MAJOR}")]
    Version(u8),
    /// A frame of another cluster on the same segment.
    #[error("cluster id {0:08x} is not ours")]
    Cluster(u32),
    /// Corrupted, or made without the cluster's key.
    #[error("wrong tag")]
    Tag,
    /// An entry's length does not fit its kind.
    #[error("kind {kind} with {len} bytes")]
    Entry {
        /// Kind of the entry.
        kind: u8,
        /// Its length byte.
        len: u8,
    },
    /// Bytes remain after the announced number of entries.
    #[error("{0} bytes after the last entry")]
    Trailing(usize),
}

/// The header as it lies on the wire.
#[derive(Serialize, Deserialize)]
struct RawHeader {
    magic: u16,
    major: u8,
    minor: u8,
    cluster: u32,
    node: u32,
    flags: u8,
    count: u8,
    reserved: u16,
    incarnation: u64,
    sequence: u64,
}

/// Serialises a frame, tag included.
///
/// Entries that would exceed [`FRAME_MAX`] are a bug of the caller; the
/// protocol core splits its entries into frames before they get here.
pub fn encode(frame: &Frame, key: &ClusterKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + frame.entries.len() * 24 + TAG_LEN);
    encode_into(frame, key, &mut bytes);
    bytes
}

/// Like [`encode`], into a buffer that is used again and again.
pub fn encode_into(frame: &Frame, key: &ClusterKey, bytes: &mut Vec<u8>) {
    bytes.clear();
    let Header { node, incarnation, sequence, joining, leaving } = frame.header;
    put(
        bytes,
        &RawHeader {
            magic: MAGIC,
            major: MAJOR,
            minor: MINOR,
            cluster: key.cluster_id(),
            node: node.0,
            flags: (FLAG_JOINING * u8::from(joining)) | (FLAG_LEAVING * u8::from(leaving)),
            count: frame.entries.len() as u8,
            reserved: 0,
            incarnation,
            sequence,
        },
    );
    for entry in &frame.entries {
        let (kind, contest) = match entry {
            Entry::Claim(contest) => (KIND_CLAIM, contest),
            Entry::Own(contest) => (KIND_OWN, contest),
            Entry::Release(contest) => (KIND_RELEASE, contest),
            Entry::Hello { unavailable } => {
                bytes.extend([KIND_HELLO, (ENTRY_HEADER_LEN + 2 * unavailable.len()) as u8]);
                bytes.extend(unavailable.iter().flat_map(|port| port.to_be_bytes()));
                continue;
            }
        };
        bytes.extend([kind, (ENTRY_HEADER_LEN + CONTEST_LEN) as u8]);
        put(bytes, contest);
    }
    let tag = key.tag(bytes);
    bytes.extend(tag);
    assert!(bytes.len() <= FRAME_MAX, "frame of {} bytes exceeds FRAME_MAX", bytes.len());
}

impl Entry {
    /// Bytes of this entry on the wire.
    pub fn wire_len(&self) -> usize {
        ENTRY_HEADER_LEN
            + match self {
                Entry::Claim(_) | Entry::Own(_) | Entry::Release(_) => CONTEST_LEN,
                Entry::Hello { unavailable } => 2 * unavailable.len(),
            }
    }
}

impl Frame {
    /// Room for entries in one frame, in bytes.
    pub const ENTRIES_MAX: usize = FRAME_MAX - HEADER_LEN - TAG_LEN;
}

fn put(bytes: &mut Vec<u8>, value: &impl Serialize) {
    let start = bytes.len();
    bytes.resize(start + HEADER_LEN, 0);
    let written = bincode::serde::encode_into_slice(value, &mut bytes[start..], CONFIG)
        .expect("a fixed layout of at most HEADER_LEN bytes fits");
    bytes.truncate(start + written);
}

/// Reads one frame out of the payload of an IP packet (spec 3.5: the rules in order).
pub fn decode(bytes: &[u8], key: &ClusterKey) -> Result<Frame, DecodeError> {
    let mut entries = Vec::new();
    let header = decode_into(bytes, key, &mut entries)?;
    Ok(Frame { header, entries })
}

/// Like [`decode`], into a list that is used again and again. After an error its content means nothing.
pub fn decode_into(
    bytes: &[u8],
    key: &ClusterKey,
    entries: &mut Vec<Entry>,
) -> Result<Header, DecodeError> {
    if bytes.len() < HEADER_LEN + TAG_LEN {
        return Err(DecodeError::Truncated(bytes.len()));
    }
    if bytes.len() > FRAME_MAX {
        return Err(DecodeError::TooLong(bytes.len()));
    }
    let (signed, tag) = bytes.split_at(bytes.len() - TAG_LEN);
    let (raw, mut rest) = take::<RawHeader>(signed)?;
    if raw.magic != MAGIC {
        return Err(DecodeError::Magic(raw.magic));
    }
    if raw.major != MAJOR {
        return Err(DecodeError::Version(raw.major));
    }
    if raw.cluster != key.cluster_id() {
        return Err(DecodeError::Cluster(raw.cluster));
    }
    if key.tag(signed) != tag {
        return Err(DecodeError::Tag);
    }
    entries.clear();
    for _ in 0..raw.count {
        let &[kind, len, ..] = rest else {
            return Err(DecodeError::Truncated(bytes.len()));
        };
        let Some((entry, after)) = rest.split_at_checked(usize::from(len)) else {
            return Err(DecodeError::Truncated(bytes.len()));
        };
        let body = entry.get(ENTRY_HEADER_LEN..).ok_or(DecodeError::Entry { kind, len })?;
        entries.extend(decode_entry(kind, len, body)?);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(DecodeError::Trailing(rest.len()));
    }
    Ok(Header {
        node: NodeId(raw.node),
        incarnation: raw.incarnation,
        sequence: raw.sequence,
        joining: raw.flags & FLAG_JOINING != 0,
        leaving: raw.flags & FLAG_LEAVING != 0,
    })
}

/// `None` for a kind that a later minor version added.
fn decode_entry(kind: u8, len: u8, body: &[u8]) -> Result<Option<Entry>, DecodeError> {
    let contest = || match take::<Contest>(body) {
        Ok((contest, [])) => Ok(contest),
        _ => Err(DecodeError::Entry { kind, len }),
    };
    Ok(match kind {
        KIND_CLAIM => Some(Entry::Claim(contest()?)),
        KIND_OWN => Some(Entry::Own(contest()?)),
        KIND_RELEASE => Some(Entry::Release(contest()?)),
        KIND_HELLO if body.len().is_multiple_of(2) && body.len() <= 2 * PORTS_MAX => {
            let ports = body.chunks_exact(2).map(|port| u16::from_be_bytes([port[0], port[1]]));
            Some(Entry::Hello { unavailable: ports.collect() })
        }
        KIND_HELLO => return Err(DecodeError::Entry { kind, len }),
        _ => None,
    })
}

fn take<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), DecodeError> {
    bincode::serde::decode_from_slice(bytes, CONFIG)
        .map(|(value, used)| (value, &bytes[used..]))
        .map_err(|_| DecodeError::Truncated(bytes.len()))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, contest) = match self {
            Entry::Claim(contest) => ("CLAIM", contest),
            Entry::Own(contest) => ("OWN", contest),
            Entry::Release(contest) => ("RELEASE", contest),
            Entry::Hello { unavailable } => return write!(f, "HELLO unavailable {unavailable:?}"),
        };
        let Contest { attempt, port, tries, rank } = contest;
        write!(f, "{kind} {attempt} port {port} try {tries} rank {rank}")
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.header.node, self.header.sequence)?;
        self.entries.iter().try_for_each(|entry| write!(f, ", {entry}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> ClusterKey {
        ClusterKey::public([10, 0, 0, 2].into())
    }

    fn contest() -> impl Strategy<Value = Contest> {
        any::<([u8; 16], u16, u8, u8)>().prop_map(|(attempt, port, tries, rank)| Contest {
            attempt: AttemptId(attempt),
            port,
            tries,
            rank,
        })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        prop_oneof![
            contest().prop_map(Entry::Claim),
            contest().prop_map(Entry::Own),
            contest().prop_map(Entry::Release),
            proptest::collection::vec(any::<u16>(), 0..=PORTS_MAX)
                .prop_map(|unavailable| Entry::Hello { unavailable }),
        ]
    }

    prop_compose! {
        fn frame()(
            (node, incarnation, sequence, joining, leaving) in any::<(u32, u64, u64, bool, bool)>(),
            entries in proptest::collection::vec(entry(), 0..10),
        ) -> Frame {
            let header =
                Header { node: NodeId(node), incarnation, sequence, joining, leaving };
            Frame { header, entries }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(frame in frame()) {
            prop_assert_eq!(decode(&encode(&frame, &key()), &key()), Ok(frame));
        }

        #[test]
        fn every_truncation_and_every_flipped_bit_is_refused(
            frame in frame(), at in any::<prop::sample::Index>(), bit in 0..8u32,
        ) {
            let bytes = encode(&frame, &key());
            let at = at.index(bytes.len());
            prop_assert!(decode(&bytes[..at], &key()).is_err());
            let mut flipped = bytes;
            flipped[at] ^= 1 << bit;
            prop_assert!(decode(&flipped, &key()).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(decode(&bytes, &key()).is_err());
        }
    }

    /// A frame with the given body, correctly tagged.
    fn tagged(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let header =
            Header { node: NodeId(1), incarnation: 2, sequence: 3, joining: false, leaving: false };
        let mut bytes = encode(&Frame { header, entries: vec![] }, &key());
        bytes.truncate(HEADER_LEN);
        edit(&mut bytes);
        let tag = key().tag(&bytes);
        bytes.extend(tag);
        bytes
    }

    #[test]
    fn each_rule_refuses_under_its_own_name() {
        let other = ClusterKey::public([10, 0, 0, 3].into()).cluster_id();
        let cases: [(Vec<u8>, DecodeError); 6] = [
            (tagged(|b| b[0] = 0), DecodeError::Magic(0x005D)),
            (tagged(|b| b[2] = 2), DecodeError::Version(2)),
            (
                tagged(|b| b[4..8].copy_from_slice(&other.to_be_bytes())),
                DecodeError::Cluster(other),
            ),
            (tagged(|b| b.push(0)), DecodeError::Trailing(1)),
            (
                tagged(|b| {
                    b[13] = 1;
                    b.extend([KIND_CLAIM, 3, 0]);
                }),
                DecodeError::Entry { kind: KIND_CLAIM, len: 3 },
            ),
            (
                tagged(|b| {
                    b[13] = 1;
                    b.extend([KIND_HELLO, 1]);
                }),
                DecodeError::Entry { kind: KIND_HELLO, len: 1 },
            ),
        ];
        for (bytes, error) in cases {
            assert_eq!(decode(&bytes, &key()), Err(error));
        }
    }

    #[test]
    fn kinds_of_a_later_minor_version_are_skipped() {
        let bytes = tagged(|b| {
            b[3] = 9;
            b[13] = 2;
            b.extend([99, 5, 1, 2, 3, KIND_HELLO, 4, 0, 80]);
        });
        let frame = decode(&bytes, &key()).unwrap();
        assert_eq!(frame.entries, [Entry::Hello { unavailable: vec![80] }]);
    }
}
