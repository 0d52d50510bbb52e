//! IPv4, TCP and UDP headers of packets from the queue and the log, read with pnet.
//!
//! pnet's views check only the minimum length of a header, so the header
//! length fields are checked here before anything behind them is touched.

use std::net::SocketAddr;

use clusterd::flow::FlowKey;
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::Ipv4Packet;
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
    /// This host answers.
    SynAck {
        /// The connection.
        flow: FlowKey,
        /// The client's initial sequence number.
        client_isn: u32,
        /// This host's initial sequence number.
        isn: u32,
    },
    /// This host refuses a SYN.
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

/// Reads an IPv4 packet that the rules have queued or logged at a netfilter
/// hook. None for anything else.
pub fn parse(bytes: &[u8], hook: u8) -> Option<Segment> {
    let ip = Ipv4Packet::new(bytes)?;
    let header_len = usize::from(ip.get_header_length()) * 4;
    if ip.get_version() != 4
        || header_len < Ipv4Packet::minimum_packet_size()
        || ip.get_fragment_offset() != 0
    {
        return None;
    }
    let payload = bytes.get(header_len..)?;
    match ip.get_next_level_protocol() {
        IpNextHeaderProtocols::Tcp => segment(&ip, &TcpPacket::new(payload)?, hook),
        IpNextHeaderProtocols::Udp => {
            let udp = UdpPacket::new(payload)?;
            let source = SocketAddr::new(ip.get_source().into(), udp.get_source());
            let destination = SocketAddr::new(ip.get_destination().into(), udp.get_destination());
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

fn segment(ip: &Ipv4Packet<'_>, tcp: &TcpPacket<'_>, hook: u8) -> Option<Segment> {
    let source = SocketAddr::new(ip.get_source().into(), tcp.get_source());
    let destination = SocketAddr::new(ip.get_destination().into(), tcp.get_destination());
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
    } else if i32::from(hook) == libc::NF_INET_LOCAL_OUT {
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

/// The payload of an IPv4 packet and its TTL, for claim frames.
pub fn ipv4_payload(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let ip = Ipv4Packet::new(bytes)?;
    let header_len = usize::from(ip.get_header_length()) * 4;
    let total_len = usize::from(ip.get_total_length());
    if header_len < Ipv4Packet::minimum_packet_size() {
        return None;
    }
    bytes.get(header_len..total_len).map(|payload| (ip.get_ttl(), payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use pnet::packet::ipv4::MutableIpv4Packet;
    use pnet::packet::tcp::MutableTcpPacket;
    use proptest::prelude::*;

    const PRE_ROUTING: u8 = libc::NF_INET_PRE_ROUTING as u8;
    const LOCAL_OUT: u8 = libc::NF_INET_LOCAL_OUT as u8;
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);

    fn segment(inbound: bool, flags: u8) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        let (source, destination, ports) =
            if inbound { (CLIENT, VIP, (4000, 80)) } else { (VIP, CLIENT, (80, 4000)) };
        let mut ip = MutableIpv4Packet::new(&mut bytes).unwrap();
        ip.set_version(4);
        ip.set_header_length(5);
        ip.set_total_length(40);
        ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
        ip.set_source(source);
        ip.set_destination(destination);
        let mut tcp = MutableTcpPacket::new(&mut bytes[20..]).unwrap();
        tcp.set_source(ports.0);
        tcp.set_destination(ports.1);
        tcp.set_sequence(1000);
        tcp.set_acknowledgement(0);
        tcp.set_flags(flags);
        bytes
    }

    #[test]
    fn each_segment_has_its_meaning() {
        let flow = FlowKey::tcp((CLIENT, 4000), (VIP, 80));
        let client_isn = u32::MAX;
        let cases = [
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
        ];
        for (inbound, flags, expected) in cases {
            let hook = if inbound { PRE_ROUTING } else { LOCAL_OUT };
            assert_eq!(parse(&segment(inbound, flags), hook), expected, "{inbound} {flags:#x}");
        }
        assert_eq!(parse(&segment(true, TcpFlags::SYN), LOCAL_OUT), None);
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

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse(&bytes, PRE_ROUTING), parse(&bytes, LOCAL_OUT), ipv4_payload(&bytes));
            if let Some(first) = bytes.first_mut() {
                *first = 0x45;
            }
            let _ = (parse(&bytes, PRE_ROUTING), parse(&bytes, LOCAL_OUT), ipv4_payload(&bytes));
        }
    }
}
