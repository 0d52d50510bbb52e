//! The two kinds of frames that participants exchange: bytes to values and back.
//!
//! A *bulletin* is broadcast, which any switch floods, so that it gets through when the cluster's MAC
//! does not. It says who its sender is and which probes of others it has seen. A *probe* goes to the
//! cluster's MAC in one of the modes, as claims and SYNs would: an IP packet of protocol
//! 150 with a magic number that no claim has.

use std::net::{IpAddr, Ipv6Addr};

use bincode::config::{BigEndian, Configuration, Fixint};
use serde::{Deserialize, Serialize};

use super::modes::{ModeSet, PerMode};
use crate::io::cluster_mac::MacMode;

/// EtherType of bulletins: IEEE 802 Local Experimental Ethertype 1.
pub const ETHERTYPE: u16 = 0x88b5;
/// Length of each bulletin in bytes. An answer is as long as what it answers, so that nobody can
/// make a daemon send more than it got.
pub const BULLETIN_LEN: usize = 720;
/// Most participants that a bulletin tells about.
pub const HOSTS_MAX: usize = 32;
/// The first bytes of a probe. Receivers of claims count it as not theirs.
pub const PROBE_MAGIC: [u8; 2] = [0xc1, 0xd0];

const BULLETIN_MAGIC: [u8; 2] = [0xc1, 0xdb];
const VERSION: u8 = 2;
const CONFIG: Configuration<BigEndian, Fixint> =
    bincode::config::standard().with_big_endian().with_fixed_int_encoding();

/// One participant: a random number, for the time that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Id(pub u32);

/// What a participant is. Of several on one host the last in this order says what the host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `clusterd doctor`.
    Doctor,
    /// A daemon that is about to choose its mode.
    Starting,
    /// A daemon that answers for the virtual IP.
    Daemon,
}

/// What the sender of a bulletin wants of daemons: one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Nothing: it is a daemon itself.
    Nothing,
    /// A bulletin.
    Bulletin,
    /// A probe in the daemon's mode.
    Probe,
}

/// What came of the gateway's test in one mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayAnswer {
    /// It was not tried.
    #[default]
    Untested,
    /// What it sent to the virtual IP came to the mode's MAC.
    Accepts,
    /// It asked again although it had been answered, or keeps to the unicast MAC of another mode.
    Refuses,
    /// It asked, was answered, and nothing came.
    Lost,
    /// It did not ask, and nothing came.
    NeverAsks,
    /// It did not ask, and sends what is for the virtual IP to another MAC.
    Elsewhere,
    /// It sends to the MAC from which it was told of one, instead of that one.
    LearnsSource,
    /// It answers no ping of this host either, so that a missing answer to the virtual IP says nothing.
    NoPing,
    /// It is not there.
    Silent,
    /// It will be known in some seconds.
    Pending,
}

/// Probes of one participant that another one should have seen, and has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// As many were sent while it listened.
    pub expected: u16,
    /// As many arrived.
    pub got: u16,
}

/// What a participant tells all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulletin {
    /// Its sender.
    pub id: Id,
    /// What it is.
    pub role: Role,
    /// What it wants of daemons.
    pub wants: Wants,
    /// The virtual IP that this is about.
    pub vip: IpAddr,
    /// The sender's own address.
    pub address: IpAddr,
    /// The modes in which it sends probes and listens.
    pub modes: ModeSet,
    /// The mode it has chosen, or runs in.
    pub choice: Option<MacMode>,
    /// Probes it has sent so far, modulo 2^16.
    pub sent: PerMode<u16>,
    /// Its gateway on this segment.
    pub router: Option<IpAddr>,
    /// What it knows of that.
    pub gateway: PerMode<GatewayAnswer>,
    /// Probes of others; [`HOSTS_MAX`] at most.
    pub heard: Vec<(Id, PerMode<Count>)>,
}

/// What is sent to the cluster's MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its sender.
    pub id: Id,
    /// The mode whose MAC it went to.
    pub mode: MacMode,
    /// Counts up from one probe to the next in this mode.
    pub sequence: u16,
}

#[derive(Serialize, Deserialize)]
struct RawBulletin {
    magic: [u8; 2],
    version: u8,
    role: u8,
    wants: u8,
    modes: u8,
    choice: u8,
    count: u8,
    id: Id,
    vip: [u8; 16],
    address: [u8; 16],
    router: [u8; 16],
    sent: [u16; 4],
    gateway: [u8; 4],
}

#[derive(Serialize, Deserialize)]
struct RawHeard {
    id: Id,
    counts: [(u16, u16); 4],
}

#[derive(Serialize, Deserialize)]
struct RawProbe {
    magic: [u8; 2],
    version: u8,
    mode: u8,
    id: Id,
    sequence: u16,
}

impl Bulletin {
    /// Its bytes, padded to [`BULLETIN_LEN`].
    pub fn encode(&self) -> Vec<u8> {
        let heard = &self.heard[..self.heard.len().min(HOSTS_MAX)];
        let raw = RawBulletin {
            magic: BULLETIN_MAGIC,
            version: VERSION,
            role: match self.role {
                Role::Doctor => 0,
                Role::Starting => 1,
                Role::Daemon => 2,
            },
            wants: match self.wants {
                Wants::Nothing => 0,
                Wants::Bulletin => 1,
                Wants::Probe => 2,
            },
            modes: self.modes.bits(),
            choice: self.choice.map_or(0, |mode| mode_number(mode) + 1),
            count: heard.len() as u8,
            id: self.id,
            vip: address_bytes(self.vip),
            address: address_bytes(self.address),
            router: self.router.map_or([0; 16], address_bytes),
            sent: self.sent.0,
            gateway: self.gateway.0.map(GatewayAnswer::number),
        };
        let mut bytes = encode(&raw);
        for (id, counts) in heard {
            let counts = counts.0.map(|count| (count.expected, count.got));
            bytes.extend(encode(&RawHeard { id: *id, counts }));
        }
        bytes.resize(BULLETIN_LEN, 0);
        bytes
    }

    /// A bulletin in these bytes, if there is one; shorter ones than ours are none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < BULLETIN_LEN {
            return None;
        }
        let (raw, mut at) = decode::<RawBulletin>(bytes)?;
        if raw.magic != BULLETIN_MAGIC || raw.version != VERSION {
            return None;
        }
        let mut heard = Vec::new();
        for _ in 0..usize::from(raw.count).min(HOSTS_MAX) {
            let (entry, length) = decode::<RawHeard>(bytes.get(at..)?)?;
            at += length;
            let counts = entry.counts.map(|(expected, got)| Count { expected, got });
            heard.push((entry.id, PerMode(counts)));
        }
        Some(Self {
            id: raw.id,
            role: match raw.role {
                0 => Role::Doctor,
                1 => Role::Starting,
                2 => Role::Daemon,
                _ => return None,
            },
            wants: match raw.wants {
                0 => Wants::Nothing,
                1 => Wants::Bulletin,
                2 => Wants::Probe,
                _ => return None,
            },
            vip: address_of(raw.vip),
            address: address_of(raw.address),
            modes: ModeSet::from_bits(raw.modes),
            choice: raw.choice.checked_sub(1).and_then(mode_of),
            sent: PerMode(raw.sent),
            router: Some(address_of(raw.router)).filter(|router| !router.is_unspecified()),
            gateway: PerMode(raw.gateway.map(GatewayAnswer::of)),
            heard,
        })
    }
}

impl Probe {
    /// Its bytes: the payload of an IP packet.
    pub fn encode(&self) -> Vec<u8> {
        encode(&RawProbe {
            magic: PROBE_MAGIC,
            version: VERSION,
            mode: mode_number(self.mode),
            id: self.id,
            sequence: self.sequence,
        })
    }

    /// A probe in these bytes, if there is one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (raw, _) = decode::<RawProbe>(bytes)?;
        if raw.magic != PROBE_MAGIC || raw.version != VERSION {
            return None;
        }
        Some(Self { id: raw.id, mode: mode_of(raw.mode)?, sequence: raw.sequence })
    }
}

impl GatewayAnswer {
    const ALL: [Self; 10] = [
        Self::Untested,
        Self::Accepts,
        Self::Refuses,
        Self::Lost,
        Self::NeverAsks,
        Self::Elsewhere,
        Self::LearnsSource,
        Self::NoPing,
        Self::Silent,
        Self::Pending,
    ];

    fn number(self) -> u8 {
        Self::ALL.iter().position(|other| *other == self).map_or(0, |at| at as u8)
    }

    fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
}

fn mode_number(mode: MacMode) -> u8 {
    MacMode::ALL.iter().position(|other| *other == mode).map_or(0, |at| at as u8)
}

fn mode_of(number: u8) -> Option<MacMode> {
    MacMode::ALL.get(usize::from(number)).copied()
}

/// IPv4 addresses as IPv6 has them (RFC 4291 2.5.5.2).
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn address_of(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, CONFIG).expect("fixed layouts of numbers can be encoded")
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<(T, usize)> {
    bincode::serde::decode_from_slice(bytes, CONFIG).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bulletin(hosts: usize) -> Bulletin {
        let count = |number| Count { expected: number, got: number / 2 };
        let counts = PerMode([count(1), count(2), count(3), count(0xffff)]);
        Bulletin {
            id: Id(7),
            role: Role::Starting,
            wants: Wants::Probe,
            vip: "10.0.0.2".parse().unwrap(),
            address: "10.0.0.11".parse().unwrap(),
            modes: ModeSet::of(&[MacMode::Igmp, MacMode::Shared]),
            choice: Some(MacMode::Stealth),
            sent: PerMode([1, 2, 3, 4]),
            router: (hosts > 0).then(|| "fe80::1".parse().unwrap()),
            gateway: PerMode([
                GatewayAnswer::Accepts,
                GatewayAnswer::Refuses,
                GatewayAnswer::LearnsSource,
                GatewayAnswer::Silent,
            ]),
            heard: (0..hosts).map(|host| (Id(host as u32), counts)).collect(),
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for hosts in [0, 1, HOSTS_MAX] {
            let bulletin = bulletin(hosts);
            let bytes = bulletin.encode();
            assert_eq!(bytes.len(), BULLETIN_LEN);
            assert_eq!(Bulletin::decode(&bytes), Some(bulletin));
        }
        for mode in MacMode::ALL {
            let probe = Probe { id: Id(9), mode, sequence: 0xfffe };
            assert_eq!(probe.encode().len(), 10);
            assert_eq!(Probe::decode(&probe.encode()), Some(probe));
        }
    }

    #[test]
    fn more_hosts_than_fit_are_left_out() {
        let bytes = bulletin(HOSTS_MAX + 5).encode();
        assert_eq!(bytes.len(), BULLETIN_LEN);
        assert_eq!(Bulletin::decode(&bytes).unwrap().heard.len(), HOSTS_MAX);
    }

    #[test]
    fn a_short_question_is_none() {
        let bytes = bulletin(0).encode();
        assert_eq!(Bulletin::decode(&bytes[..BULLETIN_LEN - 1]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..BULLETIN_LEN + 8),
            is_bulletin: bool,
        ) {
            let _ = (Bulletin::decode(&bytes), Probe::decode(&bytes));
            let magic = if is_bulletin { BULLETIN_MAGIC } else { PROBE_MAGIC };
            for (place, byte) in bytes.iter_mut().zip(magic.into_iter().chain([VERSION])) {
                *place = byte;
            }
            let _ = (Bulletin::decode(&bytes), Probe::decode(&bytes));
        }
    }
}
