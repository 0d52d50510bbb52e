//! The frames of all connections: who answered which SYN, and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::{TcpFlags, TcpPacket};
use pnet::util::MacAddr;

use crate::capture::Observer;
use crate::io::cluster_mac::MacMode;
use crate::io::link::Route;
use crate::io::packet::ip_payload;

/// What a captured frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header, as on a tunnel.
    Bare,
}

impl Framing {
    /// That of the frames which go by this route.
    pub fn of(route: &Route) -> Self {
        if route.is_ethernet { Self::Ethernet } else { Self::Bare }
    }
}

/// Which frames are needed (pcap-filter(7)): SYNs, SYN-ACKs, FINs and resets of connections to `target`.
pub fn filter(target: SocketAddr, source: IpAddr) -> String {
    let (ip, port) = (target.ip(), target.port());
    let flags = match target {
        SocketAddr::V4(_) => "tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0",
        // The names of TCP's fields are for IPv4 only.
        SocketAddr::V6(_) => "ip6[53] & 7 != 0",
    };
    format!("tcp port {port} and host {ip} and host {source} and {flags}")
}

/// What the frames have said so far.
#[derive(Debug)]
pub struct Ledger {
    target: SocketAddr,
    framing: Framing,
    attempts: BTreeMap<Key, Attempt>,
    /// Client ports whose last connection the service has ended.
    ended: BTreeSet<u16>,
    resets: BTreeMap<Option<MacAddr>, u64>,
    resets_after_end: u64,
    resets_by_client: u64,
}

/// Client port and sequence number of its SYN.
type Key = (u16, u32);

#[derive(Clone, Debug, Default)]
struct Attempt {
    syns: u32,
    /// SYNs that had been sent when the first answer came.
    syns_before_answer: Option<u32>,
    /// SYN-ACKs by MAC of the frame and sequence number.
    answers: BTreeMap<Answerer, u32>,
    /// The first of them.
    first: Option<Answerer>,
}

type Answerer = (Option<MacAddr>, u32);

/// How hosts can be told apart by their frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinction {
    /// By the MAC that a frame comes from.
    Mac,
    /// Only by their sequence numbers: all frames come from one MAC, or there is none.
    SequenceNumber,
}

/// The sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// SYNs, and those of them that repeated another.
    pub syns: u64,
    /// See `syns`.
    pub syn_retransmissions: u64,
    /// Attempts that no host had answered when their SYN was repeated, or ever.
    pub misses: u64,
    /// Attempts by the number of hosts that answered.
    pub answering_hosts: BTreeMap<usize, u64>,
    /// SYN-ACKs of further hosts than the first.
    pub second_answers: u64,
    /// SYN-ACKs that a host sent again.
    pub repeated_answers: u64,
    /// Attempts by the host that answered first.
    pub shares: BTreeMap<MacAddr, u64>,
    /// Resets from the virtual IP that were no refusal, by the host that sent them. Those in
    /// connections which the service has ended hurt nobody and are counted apart: a late second
    /// answer makes the client say once more where it is, and the host knows no more of that.
    pub resets: BTreeMap<Option<MacAddr>, u64>,
    /// See `resets`.
    pub resets_after_end: u64,
    /// Resets that the client sent.
    pub resets_by_client: u64,
}

impl Ledger {
    /// A ledger of connections to `target`.
    pub fn new(target: SocketAddr, framing: Framing) -> Self {
        Self {
            target,
            framing,
            attempts: BTreeMap::new(),
            ended: BTreeSet::new(),
            resets_after_end: 0,
            resets: BTreeMap::new(),
            resets_by_client: 0,
        }
    }

    /// How the hosts that answered can be told apart, if frames of theirs pass no router.
    pub fn distinction(&self) -> Distinction {
        let shared = Some(MacMode::Shared.address(self.target.ip()));
        let mut answerers = self.attempts.values().flat_map(|attempt| attempt.answers.keys());
        match answerers.any(|&(mac, _)| mac.is_none() || mac == shared) {
            true => Distinction::SequenceNumber,
            false => Distinction::Mac,
        }
    }

    /// The sums, with hosts told apart in this way.
    pub fn sums(&self, distinction: Distinction) -> Sums {
        let mut sums = Sums {
            resets: self.resets.clone(),
            resets_after_end: self.resets_after_end,
            resets_by_client: self.resets_by_client,
            ..Sums::default()
        };
        // An answer without a SYN belongs to a connection from before the capture.
        for attempt in self.attempts.values().filter(|attempt| attempt.syns > 0) {
            sums.syns += u64::from(attempt.syns);
            sums.syn_retransmissions += u64::from(attempt.syns - 1);
            sums.misses += u64::from(attempt.syns_before_answer != Some(1));
            let hosts = match distinction {
                Distinction::Mac => {
                    attempt.answers.keys().map(|&(mac, _)| mac).collect::<BTreeSet<_>>().len()
                }
                Distinction::SequenceNumber => attempt.answers.len(),
            };
            *sums.answering_hosts.entry(hosts).or_default() += 1;
            let answers: u64 = attempt.answers.values().copied().map(u64::from).sum();
            sums.second_answers += hosts.saturating_sub(1) as u64;
            sums.repeated_answers += answers - hosts as u64;
            if let (Distinction::Mac, Some((Some(mac), _))) = (distinction, attempt.first) {
                *sums.shares.entry(mac).or_default() += 1;
            }
        }
        sums
    }

    fn observe_segment(&mut self, mac: Option<MacAddr>, source: IpAddr, segment: &[u8]) {
        let Some(tcp) = TcpPacket::new(segment) else { return };
        let flags = tcp.get_flags();
        let is_from_vip = source == self.target.ip() && tcp.get_source() == self.target.port();
        let [syn, ack, rst] =
            [TcpFlags::SYN, TcpFlags::ACK, TcpFlags::RST].map(|flag| flags & flag != 0);
        match (is_from_vip, syn, ack, rst) {
            (false, true, false, false) => {
                let attempt =
                    self.attempts.entry((tcp.get_source(), tcp.get_sequence())).or_default();
                attempt.syns += 1;
                self.ended.remove(&tcp.get_source());
            }
            (false, _, _, true) => self.resets_by_client += 1,
            (true, true, true, false) => {
                let attempt = self.attempts.entry(answered(&tcp)).or_default();
                attempt.syns_before_answer.get_or_insert(attempt.syns);
                let answerer = (mac, tcp.get_sequence());
                attempt.first.get_or_insert(answerer);
                *attempt.answers.entry(answerer).or_default() += 1;
            }
            (true, _, _, true) => {
                // RFC 9293 3.10.7.1: what refuses a SYN acknowledges it.
                let attempt = self.attempts.get_mut(&answered(&tcp));
                match attempt.filter(|attempt| ack && attempt.first.is_none()) {
                    Some(attempt) => {
                        attempt.syns_before_answer.get_or_insert(attempt.syns);
                    }
                    None if self.ended.contains(&tcp.get_destination()) => {
                        self.resets_after_end += 1;
                    }
                    None => *self.resets.entry(mac).or_default() += 1,
                }
            }
            (true, false, _, false) if flags & TcpFlags::FIN != 0 => {
                self.ended.insert(tcp.get_destination());
            }
            (false, _, _, false) | (true, _, _, false) => {}
        }
    }
}

/// The attempt that a SYN-ACK, or a refusal, answers.
fn answered(tcp: &TcpPacket) -> Key {
    (tcp.get_destination(), tcp.get_acknowledgement().wrapping_sub(1))
}

impl Observer for Ledger {
    fn observe(&mut self, frame: &[u8], _wire_length: u64, _at: Duration) {
        let (mac, packet) = match self.framing {
            Framing::Bare => (None, frame),
            Framing::Ethernet => {
                let Some(ethernet) = EthernetPacket::new(frame) else { return };
                if !matches!(ethernet.get_ethertype(), EtherTypes::Ipv4 | EtherTypes::Ipv6) {
                    return;
                }
                (Some(ethernet.get_source()), &frame[EthernetPacket::minimum_packet_size()..])
            }
        };
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => {
                let Some(ip) = Ipv4Packet::new(packet) else { return };
                let payload = ip_payload(packet)
                    .filter(|_| ip.get_next_level_protocol() == IpNextHeaderProtocols::Tcp);
                if let Some((_, segment)) = payload {
                    self.observe_segment(mac, ip.get_source().into(), segment);
                }
            }
            Some(6) => {
                let Some(ip) = Ipv6Packet::new(packet) else { return };
                // Not `payload`, which trusts the length field.
                let segment = &packet[Ipv6Packet::minimum_packet_size()..];
                if ip.get_next_header() == IpNextHeaderProtocols::Tcp {
                    self.observe_segment(mac, ip.get_source().into(), segment);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnet::packet::ethernet::MutableEthernetPacket;
    use pnet::packet::ipv4::MutableIpv4Packet;
    use pnet::packet::ipv6::MutableIpv6Packet;
    use pnet::packet::tcp::MutableTcpPacket;
    use proptest::prelude::*;

    const SYN: u8 = TcpFlags::SYN;
    const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
    const ISN: u32 = u32::MAX;

    fn target(is_v6: bool) -> SocketAddr {
        if is_v6 { "[2001:db8::2]:80" } else { "10.0.0.2:80" }.parse().unwrap()
    }

    /// From the client to the virtual IP, or back if `host` is the last byte of a host's MAC.
    fn frame(is_v6: bool, host: Option<u8>, flags: u8, sequence: u32) -> Vec<u8> {
        let header = if is_v6 { 40 } else { 20 };
        let mut bytes = vec![0; 14 + header + 20];
        let mut ethernet = MutableEthernetPacket::new(&mut bytes).unwrap();
        ethernet.set_ethertype(if is_v6 { EtherTypes::Ipv6 } else { EtherTypes::Ipv4 });
        ethernet.set_source(MacAddr::new(2, 0, 0, 0, 0, host.unwrap_or(0xff)));
        if is_v6 {
            let mut ip = MutableIpv6Packet::new(&mut bytes[14..]).unwrap();
            ip.set_version(6);
            ip.set_payload_length(20);
            ip.set_next_header(IpNextHeaderProtocols::Tcp);
            if host.is_some() {
                ip.set_source("2001:db8::2".parse().unwrap());
            }
        } else {
            let mut ip = MutableIpv4Packet::new(&mut bytes[14..]).unwrap();
            ip.set_version(4);
            ip.set_header_length(5);
            ip.set_total_length(40);
            ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
            if host.is_some() {
                ip.set_source("10.0.0.2".parse().unwrap());
            }
        }
        let mut tcp = MutableTcpPacket::new(&mut bytes[14 + header..]).unwrap();
        tcp.set_flags(flags);
        tcp.set_sequence(sequence);
        if host.is_some() {
            tcp.set_source(80);
            tcp.set_destination(4711);
            tcp.set_acknowledgement(ISN.wrapping_add(1));
        } else {
            tcp.set_source(4711);
            tcp.set_destination(80);
        }
        bytes
    }

    fn ledger(is_v6: bool, frames: &[Vec<u8>]) -> Ledger {
        let mut ledger = Ledger::new(target(is_v6), Framing::Ethernet);
        for frame in frames {
            ledger.observe(frame, frame.len() as u64, Duration::ZERO);
        }
        ledger
    }

    #[test]
    fn two_hosts_that_answer_are_counted_and_a_repetition_is_not() {
        for is_v6 in [false, true] {
            let answer = |host, isn| frame(is_v6, Some(host), SYN_ACK, isn);
            let frames = [frame(is_v6, None, SYN, ISN), answer(1, 7), answer(1, 7), answer(2, 9)];
            let sums = ledger(is_v6, &frames).sums(Distinction::Mac);
            assert_eq!(sums.answering_hosts, BTreeMap::from([(2, 1)]));
            assert_eq!((sums.second_answers, sums.repeated_answers), (1, 1));
            assert_eq!(sums.shares, BTreeMap::from([(MacAddr::new(2, 0, 0, 0, 0, 1), 1)]));
            assert_eq!((sums.syns, sums.misses), (1, 0));
        }
    }

    #[test]
    fn behind_a_router_sequence_numbers_tell_hosts_apart() {
        let answer = |isn| frame(false, Some(1), SYN_ACK, isn);
        let ledger = ledger(false, &[frame(false, None, SYN, ISN), answer(7), answer(9)]);
        assert_eq!(ledger.distinction(), Distinction::Mac, "it knows of no router");
        assert_eq!(ledger.sums(Distinction::Mac).second_answers, 0);
        let sums = ledger.sums(Distinction::SequenceNumber);
        assert_eq!((sums.second_answers, sums.shares.len()), (1, 0));
    }

    #[test]
    fn a_shared_mac_tells_nobody_apart() {
        let mut answer = frame(false, Some(1), SYN_ACK, 7);
        answer[6..12].copy_from_slice(&[2, 0xbe, 10, 0, 0, 2]);
        assert_eq!(ledger(false, &[answer]).distinction(), Distinction::SequenceNumber);
    }

    #[test]
    fn a_syn_that_was_repeated_before_the_answer_is_a_miss() {
        let (syn, answer) = (frame(false, None, SYN, ISN), frame(false, Some(1), SYN_ACK, 7));
        let misses = |frames: &[Vec<u8>]| ledger(false, frames).sums(Distinction::Mac).misses;
        assert_eq!(misses(&[syn.clone(), answer.clone()]), 0);
        assert_eq!(misses(&[syn.clone(), syn.clone(), answer.clone()]), 1);
        assert_eq!(misses(&[syn.clone(), answer.clone(), syn.clone()]), 0);
        assert_eq!(misses(&[syn]), 1);
        assert_eq!(misses(&[answer]), 0, "of a connection from before the capture");
    }

    #[test]
    fn a_refusal_is_no_reset() {
        let syn = frame(false, None, SYN, ISN);
        let refusal = frame(false, Some(1), TcpFlags::RST | TcpFlags::ACK, 0);
        let sums = ledger(false, &[syn.clone(), refusal]).sums(Distinction::Mac);
        assert_eq!((sums.misses, sums.resets.len()), (0, 0));
        let reset = frame(false, Some(2), TcpFlags::RST, 8);
        let sums = ledger(false, &[syn.clone(), reset.clone()]).sums(Distinction::Mac);
        assert_eq!(sums.resets, BTreeMap::from([(Some(MacAddr::new(2, 0, 0, 0, 0, 2)), 1)]));
        assert_eq!(sums.resets_by_client, 0);

        // Nor is what comes after the end, until the port is used again.
        let fin = frame(false, Some(1), TcpFlags::FIN | TcpFlags::ACK, 9);
        let frames = [syn.clone(), fin, reset.clone(), syn, reset];
        let sums = ledger(false, &frames).sums(Distinction::Mac);
        assert_eq!((sums.resets.len(), sums.resets_after_end), (1, 1));
    }

    proptest! {
        #[test]
        fn no_frame_panics(
            is_v6: bool,
            bare: bool,
            noise in proptest::collection::vec((0usize..74, any::<u8>()), 0..8),
            length in 0usize..=74,
        ) {
            let mut bytes = frame(is_v6, Some(1), SYN_ACK, 7);
            for (at, byte) in noise {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            let bytes = &bytes[if bare { 14 } else { 0 }..];
            let framing = if bare { Framing::Bare } else { Framing::Ethernet };
            let mut ledger = Ledger::new(target(is_v6), framing);
            ledger.observe(&bytes[..length.min(bytes.len())], 0, Duration::ZERO);
            ledger.sums(ledger.distinction());
        }
    }
}
