//! The frames of a trial in either family: ARP and ICMP, or neighbour discovery and ICMPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::arp::{ArpOperations, ArpPacket};
use pnet::packet::ethernet::{EtherType, EtherTypes, EthernetPacket};
use pnet::packet::icmp::echo_reply::{EchoReplyPacket, MutableEchoReplyPacket};
use pnet::packet::icmp::{IcmpPacket, IcmpTypes, checksum};
use pnet::packet::icmpv6::Icmpv6Types;
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::util::MacAddr;

use crate::io::arp;
use crate::io::doctor_socket::{ETHERNET_LEN, ipv4};
use crate::io::link::Addresses;
use crate::io::ndp::{self, Message, OVERRIDE, SOLICITED};
use crate::io::packet::ip_payload;

/// Time to live of an echo request, which is for a neighbour.
const TTL: u8 = 64;

/// Who speaks, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// By ARP.
    V4 { own: Ipv4Addr, vip: Ipv4Addr, gateway: Ipv4Addr },
    /// By neighbour discovery.
    V6 { own: Ipv6Addr, vip: Ipv6Addr, gateway: Ipv6Addr },
}

/// A packet, and the MAC that it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The frame's destination.
    pub to: MacAddr,
    /// What the packet is.
    pub kind: EtherType,
    /// Its bytes.
    pub packet: Vec<u8>,
}

/// Whoever asks for the virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    /// The address that it asks from.
    pub address: IpAddr,
    /// The MAC that it asks from.
    pub mac: MacAddr,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The gateway's own MAC.
    Here(MacAddr),
    /// A question for the virtual IP's MAC.
    Asks(Asker),
    /// An echo reply of the gateway with this number, in a frame to this MAC.
    Reply(u16, MacAddr),
}

impl Speech {
    /// For a gateway of the family of the addresses.
    pub fn new(addresses: Addresses, gateway: IpAddr) -> Option<Self> {
        match (addresses, gateway) {
            (Addresses::V4 { own, vip }, IpAddr::V4(gateway)) => {
                Some(Self::V4 { own, vip, gateway })
            }
            (Addresses::V6 { own, vip }, IpAddr::V6(gateway)) => {
                Some(Self::V6 { own, vip, gateway })
            }
            (Addresses::V4 { .. }, IpAddr::V6(_)) | (Addresses::V6 { .. }, IpAddr::V4(_)) => None,
        }
    }

    /// The gateway.
    pub fn gateway(self) -> IpAddr {
        match self {
            Self::V4 { gateway, .. } => gateway.into(),
            Self::V6 { gateway, .. } => gateway.into(),
        }
    }

    /// A question for the gateway's MAC by the host with this one.
    pub fn ask(self, mac: MacAddr) -> Outgoing {
        match self {
            Self::V4 { own, gateway, .. } => {
                let request = ArpOperations::Request;
                let packet = arp::packet(request, (mac, own), (MacAddr::zero(), gateway));
                Outgoing::arp(MacAddr::broadcast(), &packet)
            }
            Self::V6 { own, gateway, .. } => {
                let to = ndp::group_mac(ndp::solicited_node(gateway));
                Outgoing::ipv6(to, ndp::question(own, mac, gateway))
            }
        }
    }

    /// Tells the gateway at `to` that the virtual IP is at this MAC; one that knew none learns nothing. Nobody
    /// else hears of it: another host may be telling its own gateway of another mode.
    pub fn announce(self, to: MacAddr, mac: MacAddr) -> Outgoing {
        match self {
            Self::V4 { vip, .. } => {
                let packet =
                    arp::packet(ArpOperations::Request, (mac, vip), (MacAddr::zero(), vip));
                Outgoing::arp(to, &packet)
            }
            Self::V6 { own, vip, gateway } => {
                Outgoing::ipv6(to, ndp::advertisement(own, gateway, vip, mac, OVERRIDE))
            }
        }
    }

    /// Tells who asks that the virtual IP is at this MAC.
    pub fn answer(self, asker: Asker, mac: MacAddr) -> Option<Outgoing> {
        match (self, asker.address) {
            (Self::V4 { vip, .. }, IpAddr::V4(address)) => {
                let packet = arp::packet(ArpOperations::Reply, (mac, vip), (asker.mac, address));
                Some(Outgoing::arp(asker.mac, &packet))
            }
            (Self::V6 { own, vip, .. }, IpAddr::V6(address)) => {
                let packet = ndp::advertisement(own, address, vip, mac, SOLICITED | OVERRIDE);
                Some(Outgoing::ipv6(asker.mac, packet))
            }
            (Self::V4 { .. }, IpAddr::V6(_)) | (Self::V6 { .. }, IpAddr::V4(_)) => None,
        }
    }

    /// An echo request to the gateway at `to`, from this host's own address.
    pub fn ping(self, to: MacAddr, ident: u16, number: u16) -> Outgoing {
        match self {
            Self::V4 { own, gateway, .. } => Outgoing::ping4(own, gateway, to, ident, number),
            Self::V6 { own, gateway, .. } => Outgoing::ping6(own, gateway, to, ident, number),
        }
    }

    /// The same from the virtual IP.
    pub fn ping_from_vip(self, to: MacAddr, ident: u16, number: u16) -> Outgoing {
        match self {
            Self::V4 { vip, gateway, .. } => Outgoing::ping4(vip, gateway, to, ident, number),
            Self::V6 { vip, gateway, .. } => Outgoing::ping6(vip, gateway, to, ident, number),
        }
    }

    /// Reads a frame of ARP or neighbour discovery.
    pub fn read_neighbour(self, frame: &[u8]) -> Option<Event> {
        let packet = frame.get(ETHERNET_LEN..)?;
        match self {
            Self::V4 { vip, gateway, .. } => {
                let arp = ArpPacket::new(packet)?;
                let (address, mac) = (arp.get_sender_proto_addr(), arp.get_sender_hw_addr());
                match arp.get_operation() {
                    // Probes have no sender (RFC 5227); a router does not probe for what it sends to.
                    ArpOperations::Request => (arp.get_target_proto_addr() == vip
                        && address != vip
                        && !address.is_unspecified())
                    .then_some(Event::Asks(Asker { address: address.into(), mac })),
                    ArpOperations::Reply => (address == gateway).then_some(Event::Here(mac)),
                    _ => None,
                }
            }
            Self::V6 { vip, gateway, .. } => {
                let (target, message) = ndp::parse(packet)?;
                match message {
                    Message::Advertisement { mac } => {
                        (target == gateway).then_some(Event::Here(mac))
                    }
                    Message::Solicitation { source } if !source.is_unspecified() => {
                        let mac = EthernetPacket::new(frame)?.get_source();
                        let asker = Asker { address: source.into(), mac };
                        (target == vip).then_some(Event::Asks(asker))
                    }
                    Message::Solicitation { .. } => None,
                }
            }
        }
    }

    /// Reads a frame with an echo reply to a request with this identifier.
    pub fn read_echo(self, frame: &[u8], ident: u16) -> Option<Event> {
        let to = EthernetPacket::new(frame)?.get_destination();
        let packet = frame.get(ETHERNET_LEN..)?;
        let (source, protocol) = match self {
            Self::V4 { .. } => {
                let ip = Ipv4Packet::new(packet)?;
                (IpAddr::from(ip.get_source()), ip.get_next_level_protocol())
            }
            Self::V6 { .. } => {
                let ip = Ipv6Packet::new(packet)?;
                (IpAddr::from(ip.get_source()), ip.get_next_header())
            }
        };
        let (icmp, reply) = match self {
            Self::V4 { .. } => (IpNextHeaderProtocols::Icmp, IcmpTypes::EchoReply.0),
            Self::V6 { .. } => (IpNextHeaderProtocols::Icmpv6, Icmpv6Types::EchoReply.0),
        };
        let (_, message) = ip_payload(packet)?;
        // The two have the same layout (RFC 4443 4.2).
        let echo = EchoReplyPacket::new(message)?;
        let is_ours = source == self.gateway()
            && protocol == icmp
            && echo.get_icmp_type().0 == reply
            && echo.get_identifier() == ident;
        is_ours.then(|| Event::Reply(echo.get_sequence_number(), to))
    }
}

impl Outgoing {
    fn arp(to: MacAddr, packet: &[u8]) -> Self {
        Self { to, kind: EtherTypes::Arp, packet: packet.to_vec() }
    }

    fn ipv6(to: MacAddr, packet: Vec<u8>) -> Self {
        Self { to, kind: EtherTypes::Ipv6, packet }
    }

    fn ping4(from: Ipv4Addr, gateway: Ipv4Addr, to: MacAddr, ident: u16, number: u16) -> Self {
        let mut message = echo_request(IcmpTypes::EchoRequest.0, ident, number);
        let sum = IcmpPacket::new(&message).map_or(0, |icmp| checksum(&icmp));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let packet = ipv4(from, gateway, IpNextHeaderProtocols::Icmp, TTL, &message);
        Self { to, kind: EtherTypes::Ipv4, packet }
    }

    fn ping6(from: Ipv6Addr, gateway: Ipv6Addr, to: MacAddr, ident: u16, number: u16) -> Self {
        let mut message = echo_request(Icmpv6Types::EchoRequest.0, ident, number);
        Self::ipv6(to, ndp::packet(from, gateway, &mut message))
    }
}

/// An echo request, or whatever has its layout, without a checksum.
fn echo_request(kind: u8, ident: u16, number: u16) -> [u8; 16] {
    let mut message = [0; 16];
    let mut echo = MutableEchoReplyPacket::new(&mut message).expect("room for the header");
    echo.set_icmp_type(pnet::packet::icmp::IcmpType(kind));
    echo.set_identifier(ident);
    echo.set_sequence_number(number);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN_MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const ROUTER_MAC: MacAddr = MacAddr(2, 0, 0, 0, 0, 9);
    const IDENT: u16 = 77;

    fn both() -> [Speech; 2] {
        let v4 = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        [
            Speech::V4 { own: v4("10.0.0.11"), vip: v4("10.0.0.2"), gateway: v4("10.0.0.1") },
            Speech::V6 { own: v6("fe80::11"), vip: v6("2001:db8::2"), gateway: v6("fe80::1") },
        ]
    }

    /// The same as the router sees it: gateway and host have changed their places.
    fn router(speech: Speech) -> Speech {
        match speech {
            Speech::V4 { own, gateway, .. } => {
                Speech::V4 { own: gateway, vip: gateway, gateway: own }
            }
            Speech::V6 { own, gateway, .. } => {
                Speech::V6 { own: gateway, vip: gateway, gateway: own }
            }
        }
    }

    fn frame(from: MacAddr, outgoing: &Outgoing) -> Vec<u8> {
        let mut frame = [outgoing.to.octets(), from.octets()].concat();
        frame.extend(outgoing.kind.0.to_be_bytes());
        frame.extend(&outgoing.packet);
        frame
    }

    #[test]
    fn host_and_gateway_understand_each_other() {
        for speech in both() {
            let other = router(speech);
            let question = frame(OWN_MAC, &speech.ask(OWN_MAC));
            let Some(Event::Asks(asker)) = other.read_neighbour(&question) else {
                panic!("{speech:?} is asked");
            };
            assert_eq!((asker.address, asker.mac), (other.gateway(), OWN_MAC));
            let answer = other.answer(asker, ROUTER_MAC).expect("of one family");
            let heard = speech.read_neighbour(&frame(ROUTER_MAC, &answer));
            assert_eq!(heard, Some(Event::Here(ROUTER_MAC)));

            let ping = speech.ping(ROUTER_MAC, IDENT, 3);
            let mut reply = frame(OWN_MAC, &ping);
            assert_eq!(other.read_echo(&reply, IDENT), None, "no reply");
            let kind = reply.len() - 16;
            reply[kind] = if kind == ETHERNET_LEN + 20 { 0 } else { 129 };
            assert_eq!(other.read_echo(&reply, IDENT), Some(Event::Reply(3, ROUTER_MAC)));
            assert_eq!(other.read_echo(&reply, IDENT + 1), None, "somebody else's");
            assert_eq!(speech.read_echo(&reply, IDENT), None, "not the gateway's");
        }
    }

    #[test]
    fn whoever_probes_is_no_router() {
        let [v4, v6] = both();
        let Speech::V4 { vip, .. } = v4 else { panic!("the first is of IPv4") };
        let sender = (ROUTER_MAC, Ipv4Addr::UNSPECIFIED);
        let probe = arp::packet(ArpOperations::Request, sender, (MacAddr::zero(), vip));
        let probe = Outgoing::arp(MacAddr::broadcast(), &probe);
        assert_eq!(v4.read_neighbour(&frame(ROUTER_MAC, &probe)), None);
        // Nor is who announces the virtual IP.
        for speech in [v4, v6] {
            let announcement = frame(ROUTER_MAC, &speech.announce(OWN_MAC, ROUTER_MAC));
            assert_eq!(speech.read_neighbour(&announcement), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            for speech in both() {
                let _ = (speech.read_neighbour(&bytes), speech.read_echo(&bytes, IDENT));
            }
        }
    }
}
