//! What the wire says about a run: who answered which SYN, and with how many claims.
//!
//! This is the judge of the lab. It knows frames only, never what a daemon says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clusterd::flow::ClusterKey;
use clusterd::wire::{self, Entry, KeyRing};
use pnet::packet::Packet;
use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::{TcpFlags, TcpPacket};
use serde::Serialize;

use super::topology::host_of_ttl;

/// Claim frames and what they contain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClaimCounts {
    /// Claim frames.
    pub frames: u64,
    /// Their bytes on the wire, Ethernet header included.
    pub bytes: u64,
    /// CLAIM entries.
    pub claim_entries: u64,
    /// OWN entries.
    pub own_entries: u64,
    /// RELEASE entries.
    pub release_entries: u64,
    /// HELLO entries.
    pub hello_entries: u64,
    /// Frames that did not decode.
    pub undecodable: u64,
}

/// The verdict of the wire on a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WireReport {
    /// Attempts seen: different (client address, client port, client ISN).
    pub attempts: u64,
    /// SYNs the client sent, retransmissions included.
    pub syns: u64,
    /// SYNs beyond the first of their attempt.
    pub syn_retransmissions: u64,
    /// How many attempts got a SYN-ACK from 0, 1, 2... different hosts.
    pub syn_ack_hosts: BTreeMap<u32, u64>,
    /// SYN-ACKs beyond the first host's, summed over attempts.
    pub second_syn_acks: u64,
    /// Attempts with more than one answering host, of all attempts.
    pub second_syn_ack_percent: f64,
    /// Resets from the VIP, by the host that sent them.
    pub resets_by_host: BTreeMap<String, u64>,
    /// Resets the client sent.
    pub resets_by_client: u64,
    /// Frames captured.
    pub frames: u64,
    /// Frames the capture lost; the counts above are exact only if it is 0.
    pub frames_lost: u64,
    /// Claims.
    pub claims: ClaimCounts,
}

/// Reads captured frames one after the other.
#[derive(Debug)]
pub struct Oracle {
    vip: IpAddr,
    ring: KeyRing,
    attempts: BTreeMap<AttemptKey, AttemptOnWire>,
    resets_by_host: BTreeMap<String, u64>,
    resets_by_client: u64,
    frames: u64,
    claims: ClaimCounts,
}

/// Client address, client port, client ISN.
type AttemptKey = (IpAddr, u16, u32);

#[derive(Clone, Copy, Debug, Default)]
struct AttemptOnWire {
    syns: u32,
    /// One bit per host that sent a SYN-ACK; the highest stands for a stranger.
    answered_by: u64,
    /// When the first SYN was seen, since 1970, and by which host the first SYN-ACK, and when.
    opened: Option<Duration>,
    connected: Option<(u32, Duration)>,
}

/// One attempt as the client's interface saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Who connected.
    pub client: SocketAddr,
    /// The client's sequence number.
    pub isn: u32,
    /// When the first SYN left, since 1970.
    pub opened: Duration,
    /// The host of the first SYN-ACK (a stranger has a number that no host has), and how long
    /// after the SYN that came.
    pub connected: Option<(usize, Duration)>,
    /// Hosts that sent a SYN-ACK.
    pub answered_by: u32,
}

const STRANGER: u32 = u64::BITS - 1;

impl Oracle {
    /// An oracle for a cluster with this virtual IP and without a secret.
    pub fn new(vip: IpAddr) -> Self {
        Self {
            vip,
            ring: ClusterKey::public(vip).into(),
            attempts: BTreeMap::new(),
            resets_by_host: BTreeMap::new(),
            resets_by_client: 0,
            frames: 0,
            claims: ClaimCounts::default(),
        }
    }

    /// Takes one frame as it was captured at a time since 1970, with its length on the wire.
    pub fn observe(&mut self, frame: &[u8], wire_length: u64, at: Duration) {
        self.frames += 1;
        let Some(ethernet) = EthernetPacket::new(frame) else {
            return;
        };
        let ip = match ethernet.get_ethertype() {
            EtherTypes::Ipv4 => ipv4(ethernet.payload()),
            EtherTypes::Ipv6 => ipv6(ethernet.payload()),
            _ => None,
        };
        let Some(ip) = ip else {
            return;
        };
        match ip.protocol {
            IpNextHeaderProtocols::Tcp => {
                if let Some(tcp) = TcpPacket::new(ip.payload) {
                    self.observe_tcp(&ethernet, &ip, &tcp, at);
                }
            }
            IpNextHeaderProtocol(wire::IP_PROTOCOL) => {
                self.claims.frames += 1;
                self.claims.bytes += wire_length;
                count_claims(ip.payload, &self.ring, &mut self.claims);
            }
            _ => {}
        }
    }

    fn observe_tcp(
        &mut self,
        ethernet: &EthernetPacket,
        ip: &IpPacket<'_>,
        tcp: &TcpPacket,
        at: Duration,
    ) {
        let flags = tcp.get_flags();
        let from_vip = ip.source == self.vip;
        if flags & TcpFlags::RST != 0 {
            if from_vip {
                let host = match host_of_ttl(ip.ttl) {
                    Some(host) => super::topology::host_name(host),
                    None => ethernet.get_source().to_string(),
                };
                *self.resets_by_host.entry(host).or_default() += 1;
            } else {
                self.resets_by_client += 1;
            }
        } else if flags & TcpFlags::ACK == 0 {
            let key = (ip.source, tcp.get_source(), tcp.get_sequence());
            let attempt = self.attempts.entry(key).or_default();
            attempt.syns += 1;
            attempt.opened.get_or_insert(at);
        } else if from_vip {
            let isn = tcp.get_acknowledgement().wrapping_sub(1);
            let key = (ip.destination, tcp.get_destination(), isn);
            let host = host_of_ttl(ip.ttl).map_or(STRANGER, |host| host as u32);
            let attempt = self.attempts.entry(key).or_default();
            attempt.answered_by |= 1 << host;
            attempt.connected.get_or_insert((host, at));
        }
    }

    /// Distinct hosts that sent SYN-ACKs over the whole run: count of attempts by host.
    pub fn syn_acks_of(&self, host: usize) -> u64 {
        self.attempts.values().filter(|attempt| attempt.answered_by & (1 << host) != 0).count()
            as u64
    }

    /// The attempts whose SYN was seen, in the order of their SYNs.
    pub fn handshakes(&self) -> Vec<Handshake> {
        let handshake = |(&(address, port, isn), attempt): (&AttemptKey, &AttemptOnWire)| {
            let opened = attempt.opened?;
            Some(Handshake {
                client: SocketAddr::new(address, port),
                isn,
                opened,
                connected: attempt
                    .connected
                    .map(|(host, at)| (host as usize, at.saturating_sub(opened))),
                answered_by: attempt.answered_by.count_ones(),
            })
        };
        let mut all: Vec<_> = self.attempts.iter().filter_map(handshake).collect();
        all.sort_by_key(|handshake| handshake.opened);
        all
    }

    /// The verdict; `frames_lost` is what the capture itself missed.
    pub fn report(&self, frames_lost: u64) -> WireReport {
        let mut report = WireReport {
            attempts: self.attempts.len() as u64,
            resets_by_host: self.resets_by_host.clone(),
            resets_by_client: self.resets_by_client,
            frames: self.frames,
            frames_lost,
            claims: self.claims.clone(),
            ..WireReport::default()
        };
        let mut answered_twice = 0;
        for attempt in self.attempts.values() {
            let hosts = attempt.answered_by.count_ones();
            *report.syn_ack_hosts.entry(hosts).or_default() += 1;
            report.syns += u64::from(attempt.syns);
            report.syn_retransmissions += u64::from(attempt.syns.saturating_sub(1));
            report.second_syn_acks += u64::from(hosts.saturating_sub(1));
            answered_twice += u64::from(hosts > 1);
        }
        if report.attempts > 0 {
            report.second_syn_ack_percent = answered_twice as f64 * 100.0 / report.attempts as f64;
        }
        report
    }
}

/// What counts of an IP packet; the payload is without Ethernet padding.
///
/// The views of pnet trust the length fields, so they are checked when this is made.
struct IpPacket<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpNextHeaderProtocol,
    /// Or hop limit.
    ttl: u8,
    payload: &'a [u8],
}

fn ipv4(bytes: &[u8]) -> Option<IpPacket<'_>> {
    let ip = Ipv4Packet::new(bytes)?;
    let header = usize::from(ip.get_header_length()) * 4;
    let total = usize::from(ip.get_total_length()).min(bytes.len());
    if ip.get_version() != 4 || header < Ipv4Packet::minimum_packet_size() {
        return None;
    }
    Some(IpPacket {
        source: ip.get_source().into(),
        destination: ip.get_destination().into(),
        protocol: ip.get_next_level_protocol(),
        ttl: ip.get_ttl(),
        payload: bytes.get(header..total)?,
    })
}

fn ipv6(bytes: &[u8]) -> Option<IpPacket<'_>> {
    let ip = Ipv6Packet::new(bytes)?;
    let header = Ipv6Packet::minimum_packet_size();
    let total = (header + usize::from(ip.get_payload_length())).min(bytes.len());
    if ip.get_version() != 6 {
        return None;
    }
    Some(IpPacket {
        source: ip.get_source().into(),
        destination: ip.get_destination().into(),
        protocol: ip.get_next_header(),
        ttl: ip.get_hop_limit(),
        payload: bytes.get(header..total)?,
    })
}

fn count_claims(payload: &[u8], ring: &KeyRing, counts: &mut ClaimCounts) {
    let Ok(frame) = wire::decode(payload, ring) else {
        counts.undecodable += 1;
        return;
    };
    for entry in &frame.entries {
        match entry {
            Entry::Claim(_) => counts.claim_entries += 1,
            Entry::Own(_) => counts.own_entries += 1,
            Entry::Release(_) => counts.release_entries += 1,
            Entry::Hello { .. } => counts.hello_entries += 1,
            Entry::HelloUdp { .. }
            | Entry::Heard { .. }
            | Entry::Vips { .. }
            | Entry::VipsTcp { .. }
            | Entry::VipsUdp { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use crate::lab::topology::{Family, ttl_of_host};
    use clusterd::flow::{AttemptId, NodeId};
    use clusterd::wire::{Contest, Frame, Header};
    use pnet::packet::ethernet::MutableEthernetPacket;
    use pnet::packet::ipv4::MutableIpv4Packet;
    use pnet::packet::ipv6::MutableIpv6Packet;
    use pnet::packet::tcp::MutableTcpPacket;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 200));
    const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x200));
    const PORT: u16 = 4711;
    const ISN: u32 = u32::MAX;

    fn oracle() -> Oracle {
        Oracle::new(Family::V4.vip())
    }

    fn vip() -> IpAddr {
        Family::V4.vip()
    }

    /// What the client sends.
    const CLIENT_TTL: u8 = 64;

    /// Between the client and the virtual IP, or from a host to this.
    fn frame(ttl: u8, source: IpAddr, protocol: IpNextHeaderProtocol, payload: &[u8]) -> Vec<u8> {
        let vip = Family::of(source).vip();
        let mut bytes = vec![0; 14];
        let mut ethernet = MutableEthernetPacket::new(&mut bytes).unwrap();
        match (source, vip) {
            (IpAddr::V4(source), IpAddr::V4(vip)) => {
                ethernet.set_ethertype(EtherTypes::Ipv4);
                bytes.resize(14 + 20, 0);
                let mut ip = MutableIpv4Packet::new(&mut bytes[14..]).unwrap();
                ip.set_version(4);
                ip.set_header_length(5);
                ip.set_total_length(20 + payload.len() as u16);
                ip.set_ttl(ttl);
                ip.set_next_level_protocol(protocol);
                ip.set_source(source);
                let IpAddr::V4(client) = CLIENT else { unreachable!() };
                ip.set_destination(if source == vip { client } else { vip });
            }
            (IpAddr::V6(source), IpAddr::V6(vip)) => {
                ethernet.set_ethertype(EtherTypes::Ipv6);
                bytes.resize(14 + 40, 0);
                let mut ip = MutableIpv6Packet::new(&mut bytes[14..]).unwrap();
                ip.set_version(6);
                ip.set_payload_length(payload.len() as u16);
                ip.set_hop_limit(ttl);
                ip.set_next_header(protocol);
                ip.set_source(source);
                let IpAddr::V6(client) = CLIENT6 else { unreachable!() };
                ip.set_destination(if source == vip { client } else { vip });
            }
            _ => unreachable!("the VIP is of the family of the source"),
        }
        bytes.extend(payload);
        bytes
    }

    fn segment(ttl: u8, source: IpAddr, flags: u8) -> Vec<u8> {
        let mut bytes = [0; 20];
        let mut tcp = MutableTcpPacket::new(&mut bytes).unwrap();
        tcp.set_flags(flags);
        if source == Family::of(source).vip() {
            tcp.set_destination(PORT);
            tcp.set_acknowledgement(ISN.wrapping_add(1));
        } else {
            tcp.set_source(PORT);
            tcp.set_sequence(ISN);
        }
        frame(ttl, source, IpNextHeaderProtocols::Tcp, &bytes)
    }

    fn observe(oracle: &mut Oracle, frames: &[Vec<u8>]) -> WireReport {
        for frame in frames {
            oracle.observe(frame, frame.len() as u64, Duration::ZERO);
        }
        oracle.report(0)
    }

    #[test]
    fn a_second_host_that_answers_is_counted_and_a_repetition_is_not() {
        let syn = segment(CLIENT_TTL, CLIENT, TcpFlags::SYN);
        let answer = |host| segment(ttl_of_host(host), vip(), TcpFlags::SYN | TcpFlags::ACK);
        let mut oracle = oracle();
        let one = observe(&mut oracle, &[syn.clone(), answer(0), syn, answer(0)]);
        assert_eq!((one.attempts, one.syns, one.syn_retransmissions), (1, 2, 1));
        assert_eq!((one.syn_ack_hosts, one.second_syn_acks), (BTreeMap::from([(1, 1)]), 0));
        let two = observe(&mut oracle, &[answer(2)]);
        assert_eq!((two.syn_ack_hosts, two.second_syn_acks), (BTreeMap::from([(2, 1)]), 1));
        assert_eq!(two.second_syn_ack_percent, 100.0);
        assert_eq!([0, 1, 2].map(|host| oracle.syn_acks_of(host)), [1, 0, 1]);
    }

    #[test]
    fn the_same_is_seen_with_ipv6() {
        let vip = Family::V6.vip();
        let answer = |host| segment(ttl_of_host(host), vip, TcpFlags::SYN | TcpFlags::ACK);
        let mut oracle = Oracle::new(vip);
        let frames = [
            segment(CLIENT_TTL, CLIENT6, TcpFlags::SYN),
            answer(0),
            answer(2),
            segment(ttl_of_host(1), vip, TcpFlags::RST),
        ];
        let report = observe(&mut oracle, &frames);
        assert_eq!((report.attempts, report.syns, report.second_syn_acks), (1, 1, 1));
        assert_eq!(report.resets_by_host, BTreeMap::from([("h2".to_owned(), 1)]));
        assert_eq!(oracle.handshakes()[0].client, SocketAddr::new(CLIENT6, PORT));
    }

    #[test]
    fn a_handshake_is_from_the_first_syn_to_the_first_answer() {
        let syn = segment(CLIENT_TTL, CLIENT, TcpFlags::SYN);
        let answer = |host| segment(ttl_of_host(host), vip(), TcpFlags::SYN | TcpFlags::ACK);
        let mut oracle = oracle();
        let frames = [syn.clone(), syn, answer(2), answer(0)];
        for (frame, second) in frames.iter().zip(5..) {
            oracle.observe(frame, frame.len() as u64, Duration::from_secs(second));
        }
        let expected = Handshake {
            client: SocketAddr::new(CLIENT, PORT),
            isn: ISN,
            opened: Duration::from_secs(5),
            connected: Some((2, Duration::from_secs(2))),
            answered_by: 2,
        };
        assert_eq!(oracle.handshakes(), [expected]);
    }

    #[test]
    fn resets_are_told_apart_by_their_sender() {
        let resets = [
            segment(ttl_of_host(1), vip(), TcpFlags::RST),
            segment(ttl_of_host(1), vip(), TcpFlags::RST | TcpFlags::ACK),
            segment(CLIENT_TTL, CLIENT, TcpFlags::RST),
        ];
        let report = observe(&mut oracle(), &resets);
        assert_eq!(report.resets_by_host, BTreeMap::from([("h2".to_owned(), 2)]));
        assert_eq!((report.resets_by_client, report.attempts), (1, 0));
    }

    #[test]
    fn claims_are_counted_by_kind() {
        let contest = Contest { attempt: AttemptId([7; 16]), port: 80, tries: 0, rank: 1 };
        let header = Header::new(NodeId(1), 1, 1);
        let entries = vec![Entry::Claim(contest), Entry::Claim(contest), Entry::Own(contest)];
        let payload = wire::encode(&Frame { header, entries }, &ClusterKey::public(vip()).into());
        let protocol = IpNextHeaderProtocol(wire::IP_PROTOCOL);
        let good = frame(ttl_of_host(0), Family::V4.host_address(0), protocol, &payload);
        let bytes = good.len() as u64;
        let bad = frame(ttl_of_host(0), Family::V4.host_address(0), protocol, &payload[1..]);
        let claims = observe(&mut oracle(), &[good, bad]).claims;
        let expected = ClaimCounts {
            frames: 2,
            bytes: 2 * bytes - 1,
            claim_entries: 2,
            own_entries: 1,
            undecodable: 1,
            ..ClaimCounts::default()
        };
        assert_eq!(claims, expected);
    }

    #[test]
    fn no_length_field_and_no_truncation_panics() {
        let mut oracle = oracle();
        for syn in [CLIENT, CLIENT6].map(|client| segment(CLIENT_TTL, client, TcpFlags::SYN)) {
            for length in 0..syn.len() {
                oracle.observe(&syn[..length], 0, Duration::ZERO);
                for byte in 0..=u8::MAX {
                    let mut broken = syn.clone();
                    broken[length] = byte;
                    oracle.observe(&broken, 0, Duration::ZERO);
                }
            }
        }
    }
}
