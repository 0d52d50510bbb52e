//! Bulletins and probes of the doctor on the wire, and what it overhears.
//!
//! Memberships are those of the sockets and end with them. The daemon's own memberships and rules are
//! left alone. Overrun: a lost bulletin is followed by the next, a lost probe is what is
//! looked for.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clusterd::wire::{IP_PROTOCOL, TTL};
use pnet::packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{Ipv4Flags, MutableIpv4Packet, checksum};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::util::MacAddr;
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::cluster_mac::{MacMode, ip_group};
use super::link::{Addresses, Link};
use super::membership::Membership;
use super::ndp::{group_mac, solicited_node};
use super::packet::ip_payload;
use super::packet_socket::{
    self, INTEREST, accept, if_equal, load_byte, load_word, reject, unless_address, unless_equal,
};
use crate::doctor::wire::{ETHERTYPE, PROBE_MAGIC};

/// Length of an Ethernet header in bytes.
pub const ETHERNET_LEN: usize = MutableEthernetPacket::minimum_packet_size();
const IPV4_LEN: usize = MutableIpv4Packet::minimum_packet_size();
const IPV6_LEN: usize = MutableIpv6Packet::minimum_packet_size();

/// Receives frames of one kind.
pub struct Receiver {
    socket: AsyncFd<Socket>,
    _membership: Option<Membership>,
}

impl Receiver {
    fn new(socket: Socket, membership: Option<Membership>) -> io::Result<Self> {
        // SAFETY: a `Socket` keeps its descriptor until it is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, INTEREST)? };
        Ok(Self { socket, _membership: membership })
    }

    /// For bulletins.
    pub fn bulletins(link: &Link) -> io::Result<Self> {
        let filter = [accept()];
        Self::new(packet_socket::open(ETHERTYPE.into(), link.index, &filter)?, None)
    }

    /// For probes about `vip`, with memberships in these modes.
    pub fn probes(
        link: &Link,
        vip: IpAddr,
        modes: impl IntoIterator<Item = MacMode>,
    ) -> io::Result<Self> {
        let (ethertype, filter) = match vip {
            IpAddr::V4(vip) => (libc::ETH_P_IP, ipv4_probes(vip)),
            IpAddr::V6(vip) => (libc::ETH_P_IPV6, ipv6_probes(vip)),
        };
        let socket = packet_socket::open(ethertype, link.index, &filter)?;
        let mut membership = None;
        for mode in modes {
            packet_socket::join(&socket, link.index, mode.address(vip))?;
            if mode == MacMode::Igmp {
                membership = Some(Membership::join(ip_group(vip), link.index)?);
            }
        }
        Self::new(socket, membership)
    }

    /// For whole frames of ARP or neighbour discovery, with their Ethernet headers. A switch that snoops
    /// MLD brings questions for an IPv6 address only where somebody listens to the group of that.
    pub fn neighbour_frames(link: &Link) -> io::Result<Self> {
        match link.addresses {
            Addresses::V4 { .. } => Self::new(raw(link, libc::ETH_P_ARP, &[accept()])?, None),
            Addresses::V6 { vip, .. } => {
                const SOLICITATION: u32 = 135;
                const ADVERTISEMENT: u32 = 136;
                let socket = raw(link, libc::ETH_P_IPV6, &icmpv6([SOLICITATION, ADVERTISEMENT]))?;
                let group = solicited_node(vip);
                packet_socket::join(&socket, link.index, group_mac(group))?;
                let membership = Membership::join(group.into(), link.index)?;
                Self::new(socket, Some(membership))
            }
        }
    }

    /// For whole frames of echo replies, with their Ethernet headers.
    pub fn echo_frames(link: &Link) -> io::Result<Self> {
        let socket = match link.addresses {
            Addresses::V4 { .. } => {
                let protocol = ETHERNET_LEN as u32 + 9;
                let icmp = IpNextHeaderProtocols::Icmp.0;
                let filter = only([(protocol, icmp)]);
                raw(link, libc::ETH_P_IP, &filter)?
            }
            Addresses::V6 { .. } => {
                const ECHO_REPLY: u32 = 129;
                raw(link, libc::ETH_P_IPV6, &icmpv6([ECHO_REPLY, ECHO_REPLY]))?
            }
        };
        Self::new(socket, None)
    }

    /// For packets of IGMP, or those of IPv6 in which MLD comes (with a hop-by-hop header before
    /// ICMPv6, RFC 2710 3), also such to this group.
    pub fn group_queries(link: &Link, group: IpAddr) -> io::Result<Self> {
        let (ethertype, filter, mac) = match group {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                let filter = only([(9, IpNextHeaderProtocols::Igmp.0)]);
                (libc::ETH_P_IP, filter, MacAddr::new(0x01, 0x00, 0x5e, b & 0x7f, c, d))
            }
            IpAddr::V6(group) => {
                let (options, icmp) =
                    (IpNextHeaderProtocols::Hopopt, IpNextHeaderProtocols::Icmpv6);
                let filter = only([(6, options.0), (40, icmp.0)]);
                (libc::ETH_P_IPV6, filter, group_mac(group))
            }
        };
        let socket = packet_socket::open(ethertype, link.index, &filter)?;
        packet_socket::join(&socket, link.index, mac)?;
        Self::new(socket, None)
    }

    /// For all frames with their Ethernet headers, also those to these group MACs.
    pub fn all_frames(link: &Link, groups: &[MacAddr]) -> io::Result<Self> {
        let socket = raw(link, libc::ETH_P_ALL, &[accept()])?;
        groups.iter().try_for_each(|&group| packet_socket::join(&socket, link.index, group))?;
        Self::new(socket, None)
    }

    /// The next frame, cut off at the length of `buffer`.
    pub async fn receive<'b>(&self, buffer: &'b mut [MaybeUninit<u8>]) -> io::Result<&'b [u8]> {
        let length = loop {
            let mut ready = self.socket.ready(INTEREST).await?;
            match packet_socket::receive(self.socket.get_ref(), buffer)? {
                None => ready.clear_ready(),
                Some(bytes) => break bytes.len(),
            }
        };
        // SAFETY: `receive` has initialised the first `length` bytes.
        Ok(unsafe { buffer[..length].assume_init_ref() })
    }
}

/// Passes packets that have these bytes at these places.
fn only<const N: usize>(expected: [(u32, u8); N]) -> Vec<SockFilter> {
    let mut filter = Vec::new();
    for (rest, (place, value)) in (0..N as u8).rev().zip(expected) {
        filter.push(load_byte(place));
        filter.push(unless_equal(value.into(), 2 * rest + 1));
    }
    filter.extend([accept(), reject()]);
    filter
}

/// Passes frames with ICMPv6 messages of these types.
fn icmpv6([one, other]: [u32; 2]) -> Vec<SockFilter> {
    let header = ETHERNET_LEN as u32;
    let icmp = IpNextHeaderProtocols::Icmpv6.0;
    vec![
        load_byte(header + 6),
        unless_equal(icmp.into(), 4),
        load_byte(header + IPV6_LEN as u32),
        if_equal(one, 1),
        unless_equal(other, 1),
        accept(),
        reject(),
    ]
}

fn ipv4_probes(vip: Ipv4Addr) -> Vec<SockFilter> {
    // ip[0] is version and header length, ip[8] the TTL, ip[9] the protocol, ip[16..20] the
    // destination.
    let mut filter = vec![load_word(16), unless_equal(vip.into(), 11)];
    let [one, other] = PROBE_MAGIC;
    filter.extend(only([(9, IP_PROTOCOL), (8, TTL), (0, 0x45), (20, one), (21, other)]));
    filter
}

fn ipv6_probes(vip: Ipv6Addr) -> Vec<SockFilter> {
    // ip[6] is the next header, ip[7] the hop limit, ip[24..40] the destination.
    let mut filter = unless_address(24, vip, 9);
    let [one, other] = PROBE_MAGIC;
    filter.extend(only([(6, IP_PROTOCOL), (7, TTL), (40, one), (41, other)]));
    filter
}

/// A socket for whole frames.
fn raw(link: &Link, ethertype: i32, filter: &[SockFilter]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.attach_filter(filter)?;
    packet_socket::set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
    socket.bind(&packet_socket::address(ethertype, link.index, MacAddr::zero()))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The payload of a probe's packet.
pub fn probe_payload(packet: &[u8]) -> Option<&[u8]> {
    ip_payload(packet).map(|(_, payload)| payload)
}

/// Sends frames, headers and all.
pub struct Sender {
    socket: Socket,
    link: Link,
}

impl Sender {
    /// Opens the socket.
    pub fn open(link: &Link) -> io::Result<Self> {
        // Without a protocol it hears nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, link: link.clone() })
    }

    /// Broadcasts a bulletin.
    pub fn bulletin(&self, payload: &[u8]) {
        self.send(MacAddr::broadcast(), EtherType(ETHERTYPE), payload);
    }

    /// Sends a probe to the MAC of a mode, from the MAC that frames of that mode come from.
    pub fn probe(&self, mode: MacMode, payload: &[u8]) {
        let mac = mode.address(self.link.addresses.vip());
        let source = match mode {
            MacMode::Multicast | MacMode::Igmp | MacMode::Stealth => self.link.mac,
            MacMode::Shared => mac,
        };
        let protocol = IpNextHeaderProtocol(IP_PROTOCOL);
        match self.link.addresses {
            Addresses::V4 { own, vip } => {
                let packet = ipv4(own, vip, protocol, TTL, payload);
                self.send_from(source, mac, EtherTypes::Ipv4, &packet);
            }
            Addresses::V6 { own, vip } => {
                let packet = ipv6(own, vip, protocol, TTL, payload);
                self.send_from(source, mac, EtherTypes::Ipv6, &packet);
            }
        }
    }

    /// Sends a packet.
    pub fn send(&self, to: MacAddr, kind: EtherType, payload: &[u8]) {
        self.send_from(self.link.mac, to, kind, payload);
    }

    fn send_from(&self, from: MacAddr, to: MacAddr, kind: EtherType, payload: &[u8]) {
        let mut frame = vec![0; ETHERNET_LEN + payload.len()];
        frame[ETHERNET_LEN..].copy_from_slice(payload);
        let mut ethernet = MutableEthernetPacket::new(&mut frame).expect("room for the header");
        ethernet.set_destination(to);
        ethernet.set_source(from);
        ethernet.set_ethertype(kind);
        let address = packet_socket::address(0, self.link.index, to);
        // What the kernel does not take is as good as lost on the way, and seen as that.
        let _ = self.socket.send_to(&frame, &address);
    }
}

/// An IPv4 packet without options.
pub fn ipv4(
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: IpNextHeaderProtocol,
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0; IPV4_LEN + payload.len()];
    packet[IPV4_LEN..].copy_from_slice(payload);
    let length = packet.len() as u16;
    let mut ip = MutableIpv4Packet::new(&mut packet).expect("room for the header");
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length(length);
    ip.set_flags(Ipv4Flags::DontFragment);
    ip.set_ttl(ttl);
    ip.set_next_level_protocol(protocol);
    ip.set_source(from);
    ip.set_destination(to);
    let sum = checksum(&ip.to_immutable());
    ip.set_checksum(sum);
    packet
}

fn ipv6(
    from: Ipv6Addr,
    to: Ipv6Addr,
    protocol: IpNextHeaderProtocol,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0; IPV6_LEN + payload.len()];
    packet[IPV6_LEN..].copy_from_slice(payload);
    let mut ip = MutableIpv6Packet::new(&mut packet).expect("room for the header");
    ip.set_version(6);
    ip.set_payload_length(payload.len() as u16);
    ip.set_next_header(protocol);
    ip.set_hop_limit(hop_limit);
    ip.set_source(from);
    ip.set_destination(to);
    packet
}
