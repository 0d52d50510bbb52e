//! IPv4, IPv6, TCP and UDP headers of packets from the queue and the log, read with pnet.
//!
//! pnet's views check only the minimum length of a header, so the header
//! length fields are checked here before anything behind them is touched.

use std::net::{IpAddr, SocketAddr};

use clusterd::flow::FlowKey;
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::tcp::{TcpFlags, TcpPacket};
use pnet::packet::udp::UdpPacket;

/// What a packet to or from the virtual IP means to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A client opens a connection.
    Syn {
        /// The connection.
        flow: FlowKey,
        /// The client's initial sequence number.
        isn: u32,
    },
    /// This host answers, or a server behind it.
    SynAck {
        /// The connection.
        flow: FlowKey,
        /// The client's initial sequence number.
        client_isn: u32,
        /// The answer's initial sequence number.
        isn: u32,
    },
    /// This host refuses a SYN, or a server behind it.
    Refusal {
        /// The connection.
        flow: FlowKey,
        /// The client's initial sequence number.
        client_isn: u32,
    },
    /// A client acknowledges `number`: in a packet of its own, or in one that
    /// this host's kernel answers with a RST of that sequence number.
    Ack {
        /// The connection.
        flow: FlowKey,
        /// The acknowledged sequence number.
        number: u32,
    },
    /// A client says something in a flow that may be new.
    Datagram {
        /// The flow.
        flow: FlowKey,
    },
    /// This host says something to a client in a flow that is not tracked.
    Unasked {
        /// The flow.
        flow: FlowKey,
    },
}

/// Reads an IP packet that the rules have queued or logged at a netfilter
/// hook. None for anything else.
///
/// Connection tracking has put fragments together before. Of IPv6, extension headers before TCP or
/// UDP are skipped as the rules skip them, except for one that authenticates (RFC 4302), and as far as
/// the bytes go that the kernel has copied: a packet with more is none of ours, and is dropped.
pub fn parse(bytes: &[u8], hook: u8) -> Option<Segment> {
    let packet = match bytes.first()? >> 4 {
        4 => ipv4(bytes)?,
        6 => ipv6(bytes)?,
        _ => return None,
    };
    let ends = |source, destination| {
        (SocketAddr::new(packet.source, source), SocketAddr::new(packet.destination, destination))
    };
    match packet.protocol {
        IpNextHeaderProtocols::Tcp => {
            let tcp = TcpPacket::new(packet.payload)?;
            let (source, destination) = ends(tcp.get_source(), tcp.get_destination());
            segment(source, destination, &tcp, hook)
        }
        IpNextHeaderProtocols::Udp => {
            let udp = UdpPacket::new(packet.payload)?;
            let (source, destination) = ends(udp.get_source(), udp.get_destination());
            match i32::from(hook) {
                libc::NF_INET_PRE_ROUTING => {
                    Some(Segment::Datagram { flow: FlowKey::udp(source, destination) })
                }
                libc::NF_INET_LOCAL_OUT => {
                    Some(Segment::Unasked { flow: FlowKey::udp(destination, source) })
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// What of IP headers matters here.
struct IpPacket<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpNextHeaderProtocol,
    payload: &'a [u8],
}

fn ipv4(bytes: &[u8]) -> Option<IpPacket<'_>> {
    let ip = Ipv4Packet::new(bytes)?;
    let header_len = usize::from(ip.get_header_length()) * 4;
    if header_len < Ipv4Packet::minimum_packet_size() || ip.get_fragment_offset() != 0 {
        return None;
    }
    Some(IpPacket {
        source: ip.get_source().into(),
        destination: ip.get_destination().into(),
        protocol: ip.get_next_level_protocol(),
        payload: bytes.get(header_len..)?,
    })
}

fn ipv6(bytes: &[u8]) -> Option<IpPacket<'_>> {
    let ip = Ipv6Packet::new(bytes)?;
    let mut protocol = ip.get_next_header();
    let mut payload = bytes.get(Ipv6Packet::minimum_packet_size()..)?;
    loop {
        let length = match protocol {
            IpNextHeaderProtocols::Hopopt
            | IpNextHeaderProtocols::Ipv6Route
            | IpNextHeaderProtocols::Ipv6Opts => 8 * (1 + usize::from(*payload.get(1)?)),
            // Of a packet that is whole, as some translators send it (RFC 6946).
            IpNextHeaderProtocols::Ipv6Frag if is_whole(payload)? => 8,
            protocol => {
                let (source, destination) = (ip.get_source().into(), ip.get_destination().into());
                return Some(IpPacket { source, destination, protocol, payload });
            }
        };
        protocol = IpNextHeaderProtocol(*payload.first()?);
        payload = payload.get(length..)?;
    }
}

/// Does this fragment header say that there are no other fragments?
fn is_whole(header: &[u8]) -> Option<bool> {
    const OFFSET_AND_MORE: u16 = 0xfff9;
    let field = u16::from_be_bytes(*header.get(2..4)?.first_chunk()?);
    Some(field & OFFSET_AND_MORE == 0)
}

fn segment(
    source: SocketAddr,
    destination: SocketAddr,
    tcp: &TcpPacket<'_>,
    hook: u8,
) -> Option<Segment> {
    let inbound = FlowKey::tcp(source, destination);
    let outbound = FlowKey::tcp(destination, source);
    let flags = tcp.get_flags() & (TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST);
    const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
    const RST_ACK: u8 = TcpFlags::RST | TcpFlags::ACK;
    let client_isn = tcp.get_acknowledgement().wrapping_sub(1);
    if i32::from(hook) == libc::NF_INET_PRE_ROUTING {
        match flags {
            TcpFlags::SYN => Some(Segment::Syn { flow: inbound, isn: tcp.get_sequence() }),
            TcpFlags::ACK | RST_ACK => {
                Some(Segment::Ack { flow: inbound, number: tcp.get_acknowledgement() })
            }
            _ => None,
        }
    } else if matches!(i32::from(hook), libc::NF_INET_LOCAL_OUT | libc::NF_INET_POST_ROUTING) {
        match flags {
            SYN_ACK => {
                Some(Segment::SynAck { flow: outbound, client_isn, isn: tcp.get_sequence() })
            }
            RST_ACK => Some(Segment::Refusal { flow: outbound, client_isn }),
            TcpFlags::RST => Some(Segment::Ack { flow: outbound, number: tcp.get_sequence() }),
            _ => None,
        }
    } else {
        None
    }
}

/// The payload of an IP packet and its TTL or hop limit, for claim frames: these have no
/// extension headers.
pub fn ip_payload(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (ttl, header_len, end) = match bytes.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new(bytes)?;
            let header_len = usize::from(ip.get_header_length()) * 4;
            if header_len < Ipv4Packet::minimum_packet_size() {
                return None;
            }
            (ip.get_ttl(), header_len, usize::from(ip.get_total_length()))
        }
        6 => {
            let ip = Ipv6Packet::new(bytes)?;
            let header_len = Ipv6Packet::minimum_packet_size();
            let end = header_len + usize::from(ip.get_payload_length());
            (ip.get_hop_limit(), header_len, end)
        }
        _ => return None,
    };
    bytes.get(header_len..end).map(|payload| (ttl, payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use pnet::packet::ipv4::MutableIpv4Packet;
    use pnet::packet::ipv6::MutableIpv6Packet;
    use pnet::packet::tcp::MutableTcpPacket;
    use proptest::prelude::*;

    const PRE_ROUTING: u8 = libc::NF_INET_PRE_ROUTING as u8;
    const LOCAL_OUT: u8 = libc::NF_INET_LOCAL_OUT as u8;
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
    const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 200);

    fn segment(inbound: bool, flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        let (source, destination) = if inbound { (CLIENT, VIP) } else { (VIP, CLIENT) };
        let mut ip = MutableIpv4Packet::new(&mut bytes).unwrap();
        ip.set_version(4);
        ip.set_header_length(5);
        ip.set_total_length(40);
        ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
        ip.set_source(source);
        ip.set_destination(destination);
        bytes.extend(tcp(inbound, flags));
        bytes
    }

    /// With extension headers.
    fn segment6(inbound: bool, flags: u8, headers: &[(IpNextHeaderProtocol, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        let (source, destination) = if inbound { (CLIENT6, VIP6) } else { (VIP6, CLIENT6) };
        let kinds = headers.iter().map(|(kind, _)| *kind);
        let mut kinds = kinds.chain([IpNextHeaderProtocols::Tcp]);
        let mut ip = MutableIpv6Packet::new(&mut bytes).unwrap();
        ip.set_version(6);
        ip.set_next_header(kinds.next().unwrap());
        ip.set_source(source);
        ip.set_destination(destination);
        for ((_, rest), next) in headers.iter().zip(kinds) {
            bytes.push(next.0);
            bytes.extend(*rest);
        }
        bytes.extend(tcp(inbound, flags));
        let length = bytes.len() as u16 - 40;
        MutableIpv6Packet::new(&mut bytes).unwrap().set_payload_length(length);
        bytes
    }

    fn tcp(inbound: bool, flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        let ports = if inbound { (4000, 80) } else { (80, 4000) };
        let mut tcp = MutableTcpPacket::new(&mut bytes).unwrap();
        tcp.set_source(ports.0);
        tcp.set_destination(ports.1);
        tcp.set_sequence(1000);
        tcp.set_acknowledgement(0);
        tcp.set_flags(flags);
        bytes
    }

    fn meanings(flow: FlowKey) -> [(bool, u8, Option<Segment>); 7] {
        let client_isn = u32::MAX;
        [
            (true, TcpFlags::SYN, Some(Segment::Syn { flow, isn: 1000 })),
            (true, TcpFlags::ACK | TcpFlags::PSH, Some(Segment::Ack { flow, number: 0 })),
            (true, TcpFlags::RST, None),
            (
                false,
                TcpFlags::SYN | TcpFlags::ACK,
                Some(Segment::SynAck { flow, client_isn, isn: 1000 }),
            ),
            (false, TcpFlags::RST | TcpFlags::ACK, Some(Segment::Refusal { flow, client_isn })),
            (false, TcpFlags::RST, Some(Segment::Ack { flow, number: 1000 })),
            (false, TcpFlags::ACK, None),
        ]
    }

    #[test]
    fn each_segment_has_its_meaning() {
        const BEHIND: u8 = libc::NF_INET_POST_ROUTING as u8;
        let hooks = |inbound| if inbound { vec![PRE_ROUTING] } else { vec![LOCAL_OUT, BEHIND] };
        let check = |bytes: &[u8], inbound, expected| {
            hooks(inbound).iter().for_each(|&hook| assert_eq!(parse(bytes, hook), expected));
        };
        for (inbound, flags, expected) in meanings(FlowKey::tcp((CLIENT, 4000), (VIP, 80))) {
            check(&segment(inbound, flags), inbound, expected);
        }
        for (inbound, flags, expected) in meanings(FlowKey::tcp((CLIENT6, 4000), (VIP6, 80))) {
            check(&segment6(inbound, flags, &[]), inbound, expected);
        }
        assert_eq!(parse(&segment(true, TcpFlags::SYN), LOCAL_OUT), None);
    }

    #[test]
    fn extension_headers_are_skipped() {
        use IpNextHeaderProtocols::{Hopopt, Ipv6Frag, Ipv6Opts, Ipv6Route};
        let flow = FlowKey::tcp((CLIENT6, 4000), (VIP6, 80));
        let syn = Some(Segment::Syn { flow, isn: 1000 });
        let long = [[1, 1, 12].as_slice(), &[0; 12]].concat();
        let parsed = |headers: &[_]| parse(&segment6(true, TcpFlags::SYN, headers), PRE_ROUTING);
        let options: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
        assert_eq!(parsed(&[(Hopopt, options)]), syn);
        assert_eq!(parsed(&[(Hopopt, options), (Ipv6Opts, &long), (Ipv6Route, options)]), syn);
        assert_eq!(parsed(&[(Ipv6Frag, &[0, 0, 6, 1, 2, 3, 4])]), syn, "whole");
        assert_eq!(parsed(&[(Ipv6Frag, &[0, 0, 1, 1, 2, 3, 4])]), None, "the first of several");
        assert_eq!(parsed(&[(Ipv6Frag, &[0, 8, 0, 1, 2, 3, 4])]), None, "the last");
        let cut = segment6(true, TcpFlags::SYN, &[(Ipv6Opts, &long)]);
        assert!((0..cut.len()).all(|length| parse(&cut[..length], PRE_ROUTING).is_none()));
    }

    #[test]
    fn a_datagram_has_its_flow() {
        let mut bytes = segment(true, 0);
        bytes[9] = 17;
        // No more than the header is needed, however long the datagram is.
        bytes.truncate(28);
        let flow = FlowKey::udp((CLIENT, 4000), (VIP, 80));
        assert_eq!(parse(&bytes, PRE_ROUTING), Some(Segment::Datagram { flow }));
        assert_eq!(parse(&bytes[..27], PRE_ROUTING), None);

        // A flow is named as the client would name it.
        let mut bytes = segment(false, 0);
        bytes[9] = 17;
        assert_eq!(parse(&bytes, LOCAL_OUT), Some(Segment::Unasked { flow }));
        assert_eq!(parse(&bytes, libc::NF_INET_FORWARD as u8), None);
    }

    #[test]
    fn the_payload_ends_where_the_header_says() {
        for mut bytes in [segment(true, 0), segment6(true, 0, &[])] {
            let header = bytes.len() - 20;
            bytes[if header == 20 { 8 } else { 7 }] = 255;
            // What Ethernet fills up with is not counted in.
            bytes.push(0);
            assert_eq!(ip_payload(&bytes), Some((255, &bytes[header..header + 20])));
            assert_eq!(ip_payload(&bytes[..header + 19]), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for first in [None, Some(0x45), Some(0x60)] {
                if let (Some(to), Some(first)) = (bytes.first_mut(), first) {
                    *to = first;
                }
                let _ = (parse(&bytes, PRE_ROUTING), parse(&bytes, LOCAL_OUT), ip_payload(&bytes));
            }
        }
    }
}
