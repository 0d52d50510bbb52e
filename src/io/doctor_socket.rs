//! Bulletins and probes of the doctor on the wire.
//!
//! Memberships are those of the sockets and end with them. The daemon's own memberships and rules are
//! left alone. Overrun: a lost bulletin is followed by the next, a lost probe is what is
//! looked for.

use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;

use clusterd::wire::{IP_PROTOCOL, TTL};
use pnet::packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet::packet::ipv4::{Ipv4Flags, MutableIpv4Packet, checksum};
use pnet::util::MacAddr;
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::cluster_mac::{MacMode, ip_group};
use super::link::{Addresses, Link};
use super::membership::Membership;
use super::packet::ip_payload;
use super::packet_socket;
use crate::doctor::wire::{ETHERTYPE, PROBE_MAGIC};

const ETHERNET_LEN: usize = MutableEthernetPacket::minimum_packet_size();
const IPV4_LEN: usize = MutableIpv4Packet::minimum_packet_size();
/// An interface that goes down is an error and nothing to read.
const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);

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
        let filter = [packet_socket::accept()];
        Self::new(packet_socket::open(ETHERTYPE.into(), link.index, &filter)?, None)
    }

    /// For probes about `vip`, with memberships in these modes.
    pub fn probes(
        link: &Link,
        vip: Ipv4Addr,
        modes: impl IntoIterator<Item = MacMode>,
    ) -> io::Result<Self> {
        // ip[0] is version and header length, ip[8] the TTL, ip[9] the protocol, ip[16..20] the
        // destination.
        let filter = [
            packet_socket::load_byte(9),
            packet_socket::unless_equal(u32::from(IP_PROTOCOL), 11),
            packet_socket::load_word(16),
            packet_socket::unless_equal(vip.into(), 9),
            packet_socket::load_byte(8),
            packet_socket::unless_equal(u32::from(TTL), 7),
            packet_socket::load_byte(0),
            packet_socket::unless_equal(0x45, 5),
            packet_socket::load_byte(20),
            packet_socket::unless_equal(u32::from(PROBE_MAGIC[0]), 3),
            packet_socket::load_byte(21),
            packet_socket::unless_equal(u32::from(PROBE_MAGIC[1]), 1),
            packet_socket::accept(),
            packet_socket::reject(),
        ];
        let socket = packet_socket::open(libc::ETH_P_IP, link.index, &filter)?;
        let mut membership = None;
        for mode in modes {
            packet_socket::join(&socket, link.index, mode.address(vip.into()))?;
            if mode == MacMode::Igmp {
                membership = Some(Membership::join(ip_group(vip.into()), link.index)?);
            }
        }
        Self::new(socket, membership)
    }

    /// For whole ARP frames, with their Ethernet headers.
    pub fn arp_frames(link: &Link) -> io::Result<Self> {
        Self::frames(link, libc::ETH_P_ARP, &[packet_socket::accept()])
    }

    /// For whole ICMP frames, with their Ethernet headers.
    pub fn icmp_frames(link: &Link) -> io::Result<Self> {
        let protocol = ETHERNET_LEN as u32 + 9;
        let filter = [
            packet_socket::load_byte(protocol),
            packet_socket::unless_equal(libc::IPPROTO_ICMP as u32, 1),
            packet_socket::accept(),
            packet_socket::reject(),
        ];
        Self::frames(link, libc::ETH_P_IP, &filter)
    }

    fn frames(link: &Link, ethertype: i32, filter: &[SockFilter]) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.attach_filter(filter)?;
        packet_socket::set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        socket.bind(&packet_socket::address(ethertype, link.index, MacAddr::zero()))?;
        socket.set_nonblocking(true)?;
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

/// The payload of a probe's packet.
pub fn probe_payload(packet: &[u8]) -> Option<&[u8]> {
    ip_payload(packet).map(|(_, payload)| payload)
}

/// Sends frames, headers and all.
pub struct Sender {
    socket: Socket,
    link: Link,
    own: Ipv4Addr,
    vip: Ipv4Addr,
}

impl Sender {
    /// Opens the socket.
    pub fn open(link: &Link, vip: Ipv4Addr) -> io::Result<Self> {
        // Without a protocol it hears nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        let Addresses::V4 { own, .. } = link.addresses else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the doctor is for IPv4 only"));
        };
        Ok(Self { socket, link: link.clone(), own, vip })
    }

    /// This host's own address.
    pub fn own(&self) -> Ipv4Addr {
        self.own
    }

    /// Broadcasts a bulletin.
    pub fn bulletin(&self, payload: &[u8]) {
        self.send(MacAddr::broadcast(), self.link.mac, EtherType(ETHERTYPE), payload);
    }

    /// Sends a probe to the MAC of a mode, from the MAC that frames of that mode come from.
    pub fn probe(&self, mode: MacMode, payload: &[u8]) {
        let mac = mode.address(self.vip.into());
        let source = match mode {
            MacMode::Multicast | MacMode::Igmp | MacMode::Stealth => self.link.mac,
            MacMode::Shared => mac,
        };
        let protocol = IpNextHeaderProtocol(IP_PROTOCOL);
        let packet = ipv4(self.own, self.vip, protocol, TTL, payload);
        self.send(mac, source, EtherTypes::Ipv4, &packet);
    }

    /// Sends an echo request to a neighbour.
    pub fn echo_request(&self, from: Ipv4Addr, to: (MacAddr, Ipv4Addr), message: &[u8]) {
        let packet = ipv4(from, to.1, IpNextHeaderProtocols::Icmp, 64, message);
        self.send(to.0, self.link.mac, EtherTypes::Ipv4, &packet);
    }

    /// Sends an ARP packet.
    pub fn arp(&self, to: MacAddr, packet: &[u8]) {
        self.send(to, self.link.mac, EtherTypes::Arp, packet);
    }

    fn send(&self, to: MacAddr, from: MacAddr, kind: EtherType, payload: &[u8]) {
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

fn ipv4(
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
