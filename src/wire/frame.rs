//! The claim frame of spec section 3.

use std::fmt;

use bincode::config::{BigEndian, Configuration, Fixint, Limit};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::keyring::{KeyRing, TAG_LEN};
use crate::flow::{AttemptId, NodeId, VipHash};

/// IP protocol number of claim frames. Unassigned by IANA (148 to 252 are).
pub const IP_PROTOCOL: u8 = 150;
/// The IP TTL that every frame is sent with and must arrive with: anything
/// lower crossed a router (RFC 5082, the generalised TTL security mechanism).
pub const TTL: u8 = 255;
/// First two bytes of every frame of every version.
pub const MAGIC: u16 = 0xC15D;
/// Of frames of another major version only the header is used.
pub const MAJOR: u8 = 1;
/// A higher minor version adds entry kinds, which are skipped by length, and fields behind
/// the known ones.
pub const MINOR: u8 = 2;
/// Longest frame in bytes, so that it fits a 1400 byte MTU with its IP header.
pub const FRAME_MAX: usize = 1380;
/// Most ports that one entry lists as unavailable.
pub const PORTS_MAX: usize = 64;
/// Most virtual IPs that a host answers beside the first one.
pub const VIPS_MAX: usize = 63;
/// Most peers that one HEARD reports on.
pub const REPORTS_MAX: usize = 12;

const HEADER_LEN: usize = 32;
const ENTRY_HEADER_LEN: usize = 2;
const CONTEST_LEN: usize = 20;
const REPORT_LEN: usize = 20;
const VIP_LEN: usize = 4;
const FURTHER_PORT_LEN: usize = 3;

const KIND_CLAIM: u8 = 1;
const KIND_OWN: u8 = 2;
const KIND_RELEASE: u8 = 3;
const KIND_HELLO: u8 = 4;
const KIND_HEARD: u8 = 5;
const KIND_HELLO_UDP: u8 = 6;
const KIND_VIPS: u8 = 7;
const KIND_VIPS_TCP: u8 = 8;
const KIND_VIPS_UDP: u8 = 9;

const FLAG_JOINING: u8 = 1 << 0;
const FLAG_LEAVING: u8 = 1 << 1;
const FLAG_HASH: u8 = 1 << 2;
const FLAG_DEAF: u8 = 1 << 3;
const FLAG_MUTE: u8 = 1 << 4;

type Config = Configuration<BigEndian, Fixint, Limit<FRAME_MAX>>;
const CONFIG: Config = bincode::config::standard()
    .with_big_endian()
    .with_fixed_int_encoding()
    .with_limit::<FRAME_MAX>();

/// Who sent a frame, in which state, and where it stands among that sender's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What the sender speaks beyond [`MAJOR`].
    pub minor: u8,
    /// The sender.
    pub node: NodeId,
    /// Grows with every start of the sender's daemon.
    pub incarnation: u64,
    /// Counts the frames of one incarnation, without gaps.
    pub sequence: u64,
    /// The state of the sender.
    pub flags: Flags,
}

impl Header {
    /// Of this version, without any flag.
    pub fn new(node: NodeId, incarnation: u64, sequence: u64) -> Self {
        Self { minor: MINOR, node, incarnation, sequence, flags: Flags::default() }
    }
}

/// The state of a sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flags {
    /// It only listens yet and must not be ranked.
    pub joining: bool,
    /// This is its last frame: it must not be ranked any more.
    pub leaving: bool,
    /// It decides by hash and does not claim (spec 5.6).
    pub hash: bool,
    /// It has reason to believe that it does not hear the others.
    pub deaf: bool,
    /// It has reason to believe that the others do not hear it.
    pub mute: bool,
}

impl Flags {
    fn to_bits(self) -> u8 {
        let Self { joining, leaving, hash, deaf, mute } = self;
        [
            (joining, FLAG_JOINING),
            (leaving, FLAG_LEAVING),
            (hash, FLAG_HASH),
            (deaf, FLAG_DEAF),
            (mute, FLAG_MUTE),
        ]
        .iter()
        .fold(0, |bits, &(set, flag)| bits | if set { flag } else { 0 })
    }

    fn from_bits(bits: u8) -> Self {
        Self {
            joining: bits & FLAG_JOINING != 0,
            leaving: bits & FLAG_LEAVING != 0,
            hash: bits & FLAG_HASH != 0,
            deaf: bits & FLAG_DEAF != 0,
            mute: bits & FLAG_MUTE != 0,
        }
    }
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// "I want this attempt": others defer to the best claim for a while.
    Claim(Contest),
    /// "My kernel has sent a SYN-ACK": others drop their copy of the SYN.
    Own(Contest),
    /// "I pass, or failed": the contest goes on without the sender.
    Release(Contest),
    /// The TCP ports of the first virtual IP that the sender cannot serve now.
    Hello {
        /// Ports without a listener, at most [`PORTS_MAX`].
        unavailable: Vec<u16>,
    },
    /// The UDP ports of the first virtual IP that the sender cannot serve now.
    HelloUdp {
        /// Ports without a socket, at most [`PORTS_MAX`].
        unavailable: Vec<u16>,
    },
    /// What the sender has heard of its peers. A peer that finds itself in it
    /// knows that the sender hears it now, and that this frame is no replay.
    Heard {
        /// One for each peer in turn, at most [`REPORTS_MAX`].
        reports: Vec<Report>,
    },
    /// The virtual IPs that the sender answers beside the first one.
    Vips {
        /// In an order of the sender's own, at most [`VIPS_MAX`].
        further: Vec<VipHash>,
    },
    /// The TCP ports of these that the sender cannot serve now.
    VipsTcp {
        /// Ports without a listener, at most [`PORTS_MAX`].
        unavailable: Vec<FurtherPort>,
    },
    /// The UDP ports of these that the sender cannot serve now.
    VipsUdp {
        /// Ports without a socket, at most [`PORTS_MAX`].
        unavailable: Vec<FurtherPort>,
    },
}

/// A port of a virtual IP beside the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FurtherPort {
    /// The virtual IP: its place, from 1, in the list that the sender said last.
    pub place: u8,
    /// The port number.
    pub port: u16,
}

/// What one node has heard of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who was heard.
    pub node: NodeId,
    /// In which life.
    pub incarnation: u64,
    /// The highest sequence number heard, its low 32 bits.
    pub highest: u32,
    /// Frames between the first one heard and that one which were not, low 32 bits.
    pub missing: u32,
}

/// A decoded claim frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A version this build does not speak. The frame is authentic, so its
    /// header, which is the same in all versions, may be believed.
    #[error("major version {major}, this build speaks {MAJOR}")]
    Version {
        /// The sender's major version.
        major: u8,
        /// Who and what it is.
        header: Header,
    },
    /// A frame of another cluster on the same segment.
    #[error("cluster id {0:08x} is not ours")]
    Cluster(u32),
    /// Corrupted, or made without a key that this host believes.
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
    key_id: u8,
    reserved: u8,
    incarnation: u64,
    sequence: u64,
}

/// Serialises a frame, tag included.
///
/// # Panics
/// If the entries exceed [`Frame::ENTRIES_MAX`]: a bug of the caller. The
/// protocol core splits its entries into frames before they get here.
pub fn encode(frame: &Frame, ring: &KeyRing) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(frame, ring, &mut bytes);
    bytes
}

/// Like [`encode`], into a buffer that is used again and again.
///
/// # Panics
/// As [`encode`].
pub fn encode_into(frame: &Frame, ring: &KeyRing, bytes: &mut Vec<u8>) {
    bytes.clear();
    let Header { minor, node, incarnation, sequence, flags } = frame.header;
    put(
        bytes,
        &RawHeader {
            magic: MAGIC,
            major: MAJOR,
            minor,
            cluster: ring.cluster_id(),
            node: node.0,
            flags: flags.to_bits(),
            count: frame.entries.len() as u8,
            key_id: ring.signing_id(),
            reserved: 0,
            incarnation,
            sequence,
        },
    );
    for entry in &frame.entries {
        bytes.extend([entry.kind(), entry.wire_len() as u8]);
        match entry {
            Entry::Claim(contest) | Entry::Own(contest) | Entry::Release(contest) => {
                put(bytes, contest);
            }
            Entry::Hello { unavailable } | Entry::HelloUdp { unavailable } => {
                bytes.extend(unavailable.iter().flat_map(|port| port.to_be_bytes()));
            }
            Entry::Heard { reports } => reports.iter().for_each(|report| put(bytes, report)),
            Entry::Vips { further } => further.iter().for_each(|vip| put(bytes, vip)),
            Entry::VipsTcp { unavailable } | Entry::VipsUdp { unavailable } => {
                unavailable.iter().for_each(|port| put(bytes, port));
            }
        }
    }
    let tag = ring.sign(bytes);
    bytes.extend(tag);
    assert!(bytes.len() <= FRAME_MAX, "frame of {} bytes exceeds FRAME_MAX", bytes.len());
}

impl Entry {
    /// Bytes of this entry on the wire.
    pub fn wire_len(&self) -> usize {
        ENTRY_HEADER_LEN
            + match self {
                Entry::Claim(_) | Entry::Own(_) | Entry::Release(_) => CONTEST_LEN,
                Entry::Hello { unavailable } | Entry::HelloUdp { unavailable } => {
                    2 * unavailable.len()
                }
                Entry::Heard { reports } => REPORT_LEN * reports.len(),
                Entry::Vips { further } => VIP_LEN * further.len(),
                Entry::VipsTcp { unavailable } | Entry::VipsUdp { unavailable } => {
                    FURTHER_PORT_LEN * unavailable.len()
                }
            }
    }

    fn kind(&self) -> u8 {
        match self {
            Entry::Claim(_) => KIND_CLAIM,
            Entry::Own(_) => KIND_OWN,
            Entry::Release(_) => KIND_RELEASE,
            Entry::Hello { .. } => KIND_HELLO,
            Entry::Heard { .. } => KIND_HEARD,
            Entry::HelloUdp { .. } => KIND_HELLO_UDP,
            Entry::Vips { .. } => KIND_VIPS,
            Entry::VipsTcp { .. } => KIND_VIPS_TCP,
            Entry::VipsUdp { .. } => KIND_VIPS_UDP,
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
pub fn decode(bytes: &[u8], ring: &KeyRing) -> Result<Frame, DecodeError> {
    let mut entries = Vec::new();
    let header = decode_into(bytes, ring, &mut entries)?;
    Ok(Frame { header, entries })
}

/// Like [`decode`], into a list that is used again and again. After an error its content means nothing.
pub fn decode_into(
    bytes: &[u8],
    ring: &KeyRing,
    entries: &mut Vec<Entry>,
) -> Result<Header, DecodeError> {
    entries.clear();
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
    if raw.cluster != ring.cluster_id() {
        return Err(DecodeError::Cluster(raw.cluster));
    }
    if !ring.verify(raw.key_id, signed, tag) {
        return Err(DecodeError::Tag);
    }
    let header = Header {
        minor: raw.minor,
        node: NodeId(raw.node),
        incarnation: raw.incarnation,
        sequence: raw.sequence,
        flags: Flags::from_bits(raw.flags),
    };
    if raw.major != MAJOR {
        return Err(DecodeError::Version { major: raw.major, header });
    }
    for _ in 0..raw.count {
        let &[kind, len, ..] = rest else {
            return Err(DecodeError::Truncated(bytes.len()));
        };
        let Some((entry, after)) = rest.split_at_checked(usize::from(len)) else {
            return Err(DecodeError::Truncated(bytes.len()));
        };
        let body = entry.get(ENTRY_HEADER_LEN..).ok_or(DecodeError::Entry { kind, len })?;
        let entry = decode_entry(kind, body).ok_or(DecodeError::Entry { kind, len })?;
        entries.extend(entry);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(DecodeError::Trailing(rest.len()));
    }
    Ok(header)
}

/// `None` if the body does not fit the kind, `Some(None)` for a kind that a
/// later minor version has added.
fn decode_entry(kind: u8, body: &[u8]) -> Option<Option<Entry>> {
    // A later minor version may have put something behind the known fields.
    let contest = || Some(take::<Contest>(body).ok()?.0);
    let ports = || {
        let fits = body.len().is_multiple_of(2) && body.len() <= 2 * PORTS_MAX;
        let port = |two: &[u8]| u16::from_be_bytes([two[0], two[1]]);
        fits.then(|| body.chunks_exact(2).map(port).collect())
    };
    Some(Some(match kind {
        KIND_CLAIM => Entry::Claim(contest()?),
        KIND_OWN => Entry::Own(contest()?),
        KIND_RELEASE => Entry::Release(contest()?),
        KIND_HELLO => Entry::Hello { unavailable: ports()? },
        KIND_HELLO_UDP => Entry::HelloUdp { unavailable: ports()? },
        // As many as may be said of these two fit the length byte and no more.
        KIND_HEARD => Entry::Heard { reports: items(body, REPORT_LEN)? },
        KIND_VIPS => Entry::Vips { further: items(body, VIP_LEN)? },
        KIND_VIPS_TCP => Entry::VipsTcp { unavailable: further_ports(body)? },
        KIND_VIPS_UDP => Entry::VipsUdp { unavailable: further_ports(body)? },
        _ => return Some(None),
    }))
}

fn further_ports(body: &[u8]) -> Option<Vec<FurtherPort>> {
    let fits = body.len() <= FURTHER_PORT_LEN * PORTS_MAX;
    fits.then(|| items(body, FURTHER_PORT_LEN))?
}

/// A list of items of `len` bytes each.
fn items<T: serde::de::DeserializeOwned>(body: &[u8], len: usize) -> Option<Vec<T>> {
    let items = || body.chunks_exact(len).map(|item| Some(take(item).ok()?.0));
    body.len().is_multiple_of(len).then(items)?.collect()
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
            Entry::HelloUdp { unavailable } => {
                return write!(f, "HELLO-UDP unavailable {unavailable:?}");
            }
            Entry::Vips { further } => {
                write!(f, "VIPS")?;
                return further.iter().try_for_each(|VipHash(vip)| write!(f, " {vip:08x}"));
            }
            Entry::VipsTcp { unavailable } => return write_ports(f, "VIPS-TCP", unavailable),
            Entry::VipsUdp { unavailable } => return write_ports(f, "VIPS-UDP", unavailable),
            Entry::Heard { reports } => {
                write!(f, "HEARD")?;
                return reports.iter().try_for_each(|Report { node, highest, missing, .. }| {
                    write!(f, " {node} to #{highest} without {missing}")
                });
            }
        };
        let Contest { attempt, port, tries, rank } = contest;
        write!(f, "{kind} {attempt} port {port} try {tries} rank {rank}")
    }
}

fn write_ports(f: &mut fmt::Formatter<'_>, kind: &str, ports: &[FurtherPort]) -> fmt::Result {
    write!(f, "{kind} unavailable")?;
    ports.iter().try_for_each(|FurtherPort { place, port }| write!(f, " {place}:{port}"))
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.header.node, self.header.sequence)?;
        self.entries.iter().try_for_each(|entry| write!(f, ", {entry}"))
    }
}

#[cfg(test)]
mod tests;
