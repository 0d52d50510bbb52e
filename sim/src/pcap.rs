//! A capture of a run: classic pcap with nanoseconds, Ethernet frames, as Wireshark reads it.
//!
//! It shows what a station sees to which the switch sends everything: each segment of a client
//! as it comes to the hosts' network, each segment and claim of a host as it leaves it.
//! Segments have no options and their data is zeros; claims have their real bytes.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};

use clusterd::protocol::Instant;

use crate::in_order::InOrder;
use crate::packet::{Flag, Segment, VIP};
use crate::record::{Happening, Record};

/// The magic of a file with nanoseconds, and its version.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
/// Longer frames are not written: there are none.
const SNAP_LENGTH: u32 = 65_535;
const LINKTYPE_ETHERNET: u32 = 1;

const ETHERTYPE_IPV4: u16 = 0x0800;
const CLAIM_PROTOCOL: u8 = 150;
const TCP_PROTOCOL: u8 = 6;
const DONT_FRAGMENT: u16 = 0x4000;
/// Class selector 6, in the byte where it stands.
const CS6: u8 = 48 << 2;
const TTL: u8 = 64;
const CLAIM_TTL: u8 = 255;
const WINDOW: u16 = 64_240;
/// The router behind which the clients are.
const ROUTER: [u8; 6] = [0x02, 0, 0, 0, 0xff, 0xfe];

/// Writes the capture of a run.
pub struct Capture<W>(InOrder<W>);

impl<W: Write> Capture<W> {
    /// A capture into a file.
    pub fn new(file: W) -> Self {
        let mut head = Vec::new();
        head.extend(MAGIC.to_le_bytes());
        head.extend(VERSION.0.to_le_bytes());
        head.extend(VERSION.1.to_le_bytes());
        // Time zone and accuracy, which nobody uses.
        head.extend([0; 8]);
        head.extend(SNAP_LENGTH.to_le_bytes());
        head.extend(LINKTYPE_ETHERNET.to_le_bytes());
        Self(InOrder::new(file, &head))
    }

    /// The end of the run; says whether all could be written.
    pub fn finish(self) -> io::Result<()> {
        self.0.finish().map(drop)
    }
}

impl<W: Write> Record for Capture<W> {
    fn note(&mut self, at: Instant, happening: Happening<'_>) {
        let frame = match happening {
            Happening::FromClients { segment } => from_client(segment),
            Happening::Said { host, segment } => from_host(host, segment),
            Happening::Claimed { host, bytes } => claim(host, bytes),
            Happening::Lost { .. }
            | Happening::Syn { .. }
            | Happening::Replied { .. }
            | Happening::Received { .. }
            | Happening::Arrived { .. }
            | Happening::Heard { .. }
            | Happening::Decided { .. }
            | Happening::Unheld { .. }
            | Happening::Destroyed { .. }
            | Happening::Connected { .. }
            | Happening::Accepted { .. }
            | Happening::Ended { .. }
            | Happening::Notice { .. }
            | Happening::Fault(_)
            | Happening::Started { .. }
            | Happening::Paused { .. } => return,
        };
        let mut record = Vec::with_capacity(16 + frame.len());
        record.extend(((at.0 / 1_000_000_000) as u32).to_le_bytes());
        record.extend(((at.0 % 1_000_000_000) as u32).to_le_bytes());
        record.extend((frame.len() as u32).to_le_bytes());
        record.extend((frame.len() as u32).to_le_bytes());
        record.extend(frame);
        self.0.put(at, happening.is_now(), record);
    }
}

/// The MAC that the VIP resolves to (claim-protocol.md, section 9).
fn group_mac() -> [u8; 6] {
    let [a, b, c, d] = VIP.octets();
    [0x03, 0xbf, a, b, c, d]
}

fn host_mac(host: u16) -> [u8; 6] {
    let [high, low] = (host + 1).to_be_bytes();
    [0x02, 0, 0, 0, high, low]
}

/// A host's own address, on the subnet of the VIP.
fn host_address(host: u16) -> Ipv4Addr {
    let [a, b, c, _] = VIP.octets();
    Ipv4Addr::new(a, b, c, 101 + host as u8)
}

fn from_client(segment: &Segment) -> Vec<u8> {
    let key = segment.flow.key();
    tcp(ROUTER, group_mac(), key.client, key.service, segment)
}

fn from_host(host: u16, segment: &Segment) -> Vec<u8> {
    let key = segment.flow.key();
    tcp(host_mac(host), ROUTER, key.service, key.client, segment)
}

fn claim(host: u16, bytes: &[u8]) -> Vec<u8> {
    let header = ipv4(CS6, CLAIM_TTL, CLAIM_PROTOCOL, host_address(host), VIP, bytes.len());
    [&ethernet(host_mac(host), group_mac())[..], &header, bytes].concat()
}

fn ethernet(from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    [&to[..], &from, &ETHERTYPE_IPV4.to_be_bytes()].concat()
}

fn ipv4(
    class: u8,
    ttl: u8,
    protocol: u8,
    from: Ipv4Addr,
    to: Ipv4Addr,
    payload: usize,
) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[1] = class;
    header[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = ttl;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn tcp(
    from_mac: [u8; 6],
    to_mac: [u8; 6],
    from: SocketAddr,
    to: SocketAddr,
    segment: &Segment,
) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
        unreachable!("simulated clients have IPv4 addresses")
    };
    let flags: u8 = match segment.flag {
        Flag::Syn => 0x02,
        Flag::SynAck => 0x12,
        Flag::Ack if segment.length > 0 => 0x18,
        Flag::Ack => 0x10,
        Flag::Fin => 0x11,
        Flag::Rst => 0x04,
        Flag::Refusal => 0x14,
    };
    let mut bytes = vec![0; 20 + segment.length as usize];
    bytes[0..2].copy_from_slice(&from.port().to_be_bytes());
    bytes[2..4].copy_from_slice(&to.port().to_be_bytes());
    bytes[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    bytes[8..12].copy_from_slice(&segment.acknowledgement.to_be_bytes());
    bytes[12] = 5 << 4;
    bytes[13] = flags;
    bytes[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    // The pseudo header of RFC 9293 3.1.
    let (source, destination) = (from.ip().octets(), to.ip().octets());
    let [high, low] = (bytes.len() as u16).to_be_bytes();
    let pseudo = [&source[..], &destination, &[0, TCP_PROTOCOL, high, low], &bytes].concat();
    let sum = checksum(&pseudo);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    let header = ipv4(0, TTL, TCP_PROTOCOL, *from.ip(), *to.ip(), bytes.len());
    [&ethernet(from_mac, to_mac)[..], &header, &bytes].concat()
}

/// The checksum of the Internet (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::FlowId;

    #[test]
    fn a_checksum_is_that_of_rfc_1071() {
        // The example of section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0x00, 0x01, 0xf2]), !0xf201);
    }

    #[test]
    fn a_segment_checks_to_zero() {
        let segment = Segment {
            flow: FlowId(251),
            flag: Flag::Ack,
            sequence: 0xdead_beef,
            acknowledgement: 7,
            length: 201,
        };
        let frame = from_host(2, &segment);
        assert_eq!(frame.len(), 14 + 20 + 20 + 201);
        assert_eq!(checksum(&frame[14..34]), 0);
        let length = (frame.len() - 34) as u16;
        let pseudo = [&frame[26..34], &[0, 6], &length.to_be_bytes(), &frame[34..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
