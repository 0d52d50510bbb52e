//! Neighbour discovery for virtual IPs (RFC 4861): a probe before the start, answers afterwards.
//!
//! Every host of the cluster answers every solicitation with the same MAC, so it does not matter
//! whose answer comes first. The source of the frame is the interface's own MAC, which switches
//! may learn, and that of the packet this host's link-local address: the virtual IP is never beside
//! the host's own MAC. The kernel's own advertisements are suppressed by the rules. Overrun: a lost
//! solicitation is repeated.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;
use std::time::Duration;

use pnet::packet::icmpv6::ndp::{
    MutableNdpOptionPacket, MutableNeighborAdvertPacket, MutableNeighborSolicitPacket,
    NdpOptionType, NdpOptionTypes, NeighborAdvertPacket, NeighborSolicitPacket,
};
use pnet::packet::icmpv6::{Icmpv6Code, Icmpv6Packet, Icmpv6Types, checksum};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::util::MacAddr;
use socket2::{SockFilter, Socket};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use super::neighbours::{PROBE_INTERVAL_MS, PROBES, Stranger};
use super::packet_socket::{self, INTEREST};

/// Nothing that crossed a router is believed (RFC 4861 7.1).
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const IP_HEADER: usize = MutableIpv6Packet::minimum_packet_size();
/// ICMPv6 header, flags or nothing, and the target: 4 + 4 + 16 bytes.
const MESSAGE: usize = MutableNeighborAdvertPacket::minimum_packet_size();
const _: () = assert!(MESSAGE == 24 && MutableNeighborSolicitPacket::minimum_packet_size() == 24);
/// An option with a MAC: type, length in units of eight bytes, six bytes.
const MAC_OPTION: usize = 8;

/// In answer to a solicitation (RFC 4861 4.4).
pub const SOLICITED: u8 = 0x40;
/// To be believed rather than what is known.
pub const OVERRIDE: u8 = 0x20;

/// Neighbour discovery for virtual IPs on one interface.
pub struct Ndp {
    socket: AsyncFd<Socket>,
    interface: u32,
    own: Ipv6Addr,
    vips: Vec<Ipv6Addr>,
    mac: MacAddr,
}

/// A message about a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Somebody asks for it, or probes whether it is free (without a source address).
    Solicitation {
        /// Who asks.
        source: Ipv6Addr,
    },
    /// Somebody has it.
    Advertisement {
        /// There.
        mac: MacAddr,
    },
}

/// A message that came in.
struct Received {
    vip: Ipv6Addr,
    message: Message,
    /// The MAC of who has sent it.
    from: MacAddr,
}

impl Ndp {
    /// Opens the socket on the interface with this index, where this host has the link-local address
    /// `own`, for the virtual IPs at `mac`.
    pub fn open(
        interface: u32,
        own: Ipv6Addr,
        vips: Vec<Ipv6Addr>,
        mac: MacAddr,
    ) -> io::Result<Self> {
        let socket = packet_socket::open(libc::ETH_P_IPV6, interface, &filter(&vips))?;
        for &vip in &vips {
            // The kernel joins the group itself once the address is there.
            packet_socket::join(&socket, interface, group_mac(solicited_node(vip)))?;
        }
        // SAFETY: a `Socket` keeps its descriptor until it is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, INTEREST)? };
        Ok(Self { socket, interface, own, vips, mac })
    }

    /// Asks whether a host says that a virtual IP has another MAC, and if so returns that.
    pub async fn probe(&self) -> io::Result<Option<Stranger>> {
        for _ in 0..PROBES {
            for &vip in &self.vips {
                // RFC 4862 5.4.2: a probe has no source address, so it teaches nobody anything.
                self.send(&solicitation(vip), group_mac(solicited_node(vip)))?;
            }
            let interval = Duration::from_millis(rand::random_range(PROBE_INTERVAL_MS));
            let deadline = Instant::now() + interval;
            while let Ok(received) = timeout_at(deadline, self.receive()).await {
                let Received { vip, message, .. } = received?;
                match message {
                    Message::Advertisement { mac } if mac != self.mac => {
                        return Ok(Some(Stranger { vip: vip.into(), mac }));
                    }
                    // A host of the cluster answers, or another one starts, too.
                    Message::Advertisement { .. } | Message::Solicitation { .. } => {}
                }
            }
        }
        Ok(None)
    }

    /// The MACs that hosts say `vip`, one of those that this was opened for, has when they are asked.
    pub async fn holders(&self, vip: Ipv6Addr) -> io::Result<BTreeSet<MacAddr>> {
        let mut holders = BTreeSet::new();
        for _ in 0..PROBES {
            self.send(&solicitation(vip), group_mac(solicited_node(vip)))?;
            let deadline = Instant::now() + Duration::from_millis(*PROBE_INTERVAL_MS.start());
            while let Ok(received) = timeout_at(deadline, self.receive()).await {
                let received = received?;
                match received.message {
                    Message::Advertisement { mac } if received.vip == vip => {
                        holders.insert(mac);
                    }
                    Message::Advertisement { .. } | Message::Solicitation { .. } => {}
                }
            }
        }
        Ok(holders)
    }

    /// Tells the segment where the virtual IPs are, for hosts that knew them elsewhere.
    pub fn announce(&self) -> io::Result<()> {
        self.vips.iter().try_for_each(|&vip| self.announce_one(vip))
    }

    /// Answers solicitations until a host says that a virtual IP has another MAC;
    /// returns that then, and may be called again.
    pub async fn answer(&self) -> io::Result<Stranger> {
        loop {
            let Received { vip, message, from } = self.receive().await?;
            match message {
                Message::Advertisement { mac } if mac != self.mac => {
                    return Ok(Stranger { vip: vip.into(), mac });
                }
                Message::Advertisement { .. } => {}
                // RFC 4861 7.2.4: all nodes are told who has it if who asks has no address yet.
                Message::Solicitation { source } if source.is_unspecified() => {
                    self.announce_one(vip)?;
                }
                // A solicitation need not name the MAC of who asks, the frame does.
                Message::Solicitation { source } => {
                    self.advertise(vip, source, from, SOLICITED | OVERRIDE)?;
                }
            }
        }
    }

    fn announce_one(&self, vip: Ipv6Addr) -> io::Result<()> {
        self.advertise(vip, ALL_NODES, group_mac(ALL_NODES), OVERRIDE)
    }

    fn advertise(&self, vip: Ipv6Addr, to: Ipv6Addr, mac: MacAddr, flags: u8) -> io::Result<()> {
        self.send(&advertisement(self.own, to, vip, self.mac, flags), mac)
    }

    fn send(&self, packet: &[u8], destination: MacAddr) -> io::Result<()> {
        let address = packet_socket::address(libc::ETH_P_IPV6, self.interface, destination);
        packet_socket::send(self.socket.get_ref(), packet, &address)
    }

    async fn receive(&self) -> io::Result<Received> {
        // Signed ones are long (RFC 3971).
        let mut buffer = [MaybeUninit::uninit(); 2048];
        loop {
            let mut ready = self.socket.ready(INTEREST).await?;
            match packet_socket::receive_from(self.socket.get_ref(), &mut buffer)? {
                None => ready.clear_ready(),
                Some((bytes, from)) => {
                    if let Some((vip, message)) = parse(bytes)
                        && self.vips.contains(&vip)
                    {
                        return Ok(Received { vip, message, from });
                    }
                }
            }
        }
    }
}

/// Tells the segment the new MAC of a host's own address (RFC 4861 7.2.6).
pub fn announce_host(interface: u32, address: Ipv6Addr, mac: MacAddr) -> io::Result<()> {
    let socket = packet_socket::open(libc::ETH_P_IPV6, interface, &[packet_socket::reject()])?;
    let packet = advertisement(address, ALL_NODES, address, mac, OVERRIDE);
    let everybody = packet_socket::address(libc::ETH_P_IPV6, interface, group_mac(ALL_NODES));
    socket.send_to(&packet, &everybody).map(drop)
}

/// The group in which whoever has `address` is asked for (RFC 4291 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let low = [a, b, c].map(u16::from);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | low[0], low[1] << 8 | low[2])
}

/// The MAC of a group (RFC 2464 7).
pub fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr::new(0x33, 0x33, a, b, c, d)
}

/// Solicitations and advertisements of virtual IPs.
fn filter(vips: &[Ipv6Addr]) -> Vec<SockFilter> {
    use packet_socket::*;
    // ip[6] is the next header, ip[7] the hop limit, ip[40] the ICMP type, ip[48..64] the target.
    let mut filter = vec![
        load_byte(6),
        unless_equal(u32::from(IpNextHeaderProtocols::Icmpv6.0), 5),
        load_byte(7),
        unless_equal(u32::from(HOP_LIMIT), 3),
        load_byte(40),
        if_equal(u32::from(Icmpv6Types::NeighborSolicit.0), 2),
        if_equal(u32::from(Icmpv6Types::NeighborAdvert.0), 1),
        reject(),
    ];
    // With 64 addresses there are some 600 steps; a step cannot skip that many.
    for &vip in vips {
        filter.extend(unless_address(48, vip, 1));
        filter.push(accept());
    }
    filter.push(reject());
    filter
}

/// A probe for `vip` (RFC 4862 5.4.2).
fn solicitation(vip: Ipv6Addr) -> Vec<u8> {
    let mut message = [0; MESSAGE];
    let mut view =
        MutableNeighborSolicitPacket::new(&mut message).expect("the buffer has its length");
    view.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
    view.set_icmpv6_code(Icmpv6Code(0));
    view.set_target_addr(vip);
    packet(Ipv6Addr::UNSPECIFIED, solicited_node(vip), &mut message)
}

/// A question for `target` by the host at `source` and `mac` (RFC 4861 4.3).
pub fn question(source: Ipv6Addr, mac: MacAddr, target: Ipv6Addr) -> Vec<u8> {
    let mut message = [0; MESSAGE + MAC_OPTION];
    let (fixed, option) = message.split_at_mut(MESSAGE);
    let mut view = MutableNeighborSolicitPacket::new(fixed).expect("the buffer has its length");
    view.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
    view.set_icmpv6_code(Icmpv6Code(0));
    view.set_target_addr(target);
    set_mac_option(option, NdpOptionTypes::SourceLLAddr, mac);
    packet(source, solicited_node(target), &mut message)
}

/// An advertisement that `target` is at `mac`.
pub fn advertisement(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    mac: MacAddr,
    flags: u8,
) -> Vec<u8> {
    let mut message = [0; MESSAGE + MAC_OPTION];
    let (fixed, option) = message.split_at_mut(MESSAGE);
    let mut view = MutableNeighborAdvertPacket::new(fixed).expect("the buffer has its length");
    view.set_icmpv6_type(Icmpv6Types::NeighborAdvert);
    view.set_icmpv6_code(Icmpv6Code(0));
    view.set_flags(flags);
    view.set_target_addr(target);
    set_mac_option(option, NdpOptionTypes::TargetLLAddr, mac);
    packet(source, destination, &mut message)
}

fn set_mac_option(option: &mut [u8], kind: NdpOptionType, mac: MacAddr) {
    let mut view = MutableNdpOptionPacket::new(option).expect("the buffer has its length");
    view.set_option_type(kind);
    view.set_length(1);
    view.set_data(&mac.octets());
}

/// An IPv6 packet with an ICMPv6 message, which gets its checksum.
pub fn packet(source: Ipv6Addr, destination: Ipv6Addr, message: &mut [u8]) -> Vec<u8> {
    let sum = checksum(
        &Icmpv6Packet::new(message).expect("longer than the header"),
        &source,
        &destination,
    );
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = vec![0; IP_HEADER];
    let mut ip = MutableIpv6Packet::new(&mut bytes).expect("the buffer has a header's length");
    ip.set_version(6);
    ip.set_payload_length(message.len() as u16);
    ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
    ip.set_hop_limit(HOP_LIMIT);
    ip.set_source(source);
    ip.set_destination(destination);
    bytes.extend_from_slice(message);
    bytes
}

/// Reads what has passed the filter, with the target. None for what RFC 4861 7.1 has ignored, and
/// for an advertisement without a MAC, which only those get who know it.
pub fn parse(bytes: &[u8]) -> Option<(Ipv6Addr, Message)> {
    let ip = Ipv6Packet::new(bytes)?;
    // What Ethernet fills up with is not part of the message.
    let end = IP_HEADER + usize::from(ip.get_payload_length());
    let message = bytes.get(IP_HEADER..end)?;
    let icmp = Icmpv6Packet::new(message)?;
    let (source, destination) = (ip.get_source(), ip.get_destination());
    let is_sound = ip.get_hop_limit() == HOP_LIMIT
        && icmp.get_icmpv6_code() == Icmpv6Code(0)
        && icmp.get_checksum() == checksum(&icmp, &source, &destination);
    if !is_sound {
        return None;
    }
    match icmp.get_icmpv6_type() {
        Icmpv6Types::NeighborSolicit => {
            let target = NeighborSolicitPacket::new(message)?.get_target_addr();
            Some((target, Message::Solicitation { source }))
        }
        Icmpv6Types::NeighborAdvert => {
            let target = NeighborAdvertPacket::new(message)?.get_target_addr();
            let mac = mac_option(message.get(MESSAGE..)?)?;
            Some((target, Message::Advertisement { mac }))
        }
        _ => None,
    }
}

/// The target link-layer address among the options.
fn mac_option(mut options: &[u8]) -> Option<MacAddr> {
    loop {
        let [kind, length, ..] = *options else { return None };
        // RFC 4861 4.6: a length of 0 makes the whole message void.
        if length == 0 {
            return None;
        }
        let (option, rest) = options.split_at_checked(MAC_OPTION * usize::from(length))?;
        if let (true, &[_, _, a, b, c, d, e, f]) = (kind == NdpOptionTypes::TargetLLAddr.0, option)
        {
            return Some(MacAddr::new(a, b, c, d, e, f));
        }
        options = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
    const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const MAC: MacAddr = MacAddr(3, 0xbf, 1, 2, 3, 4);

    #[test]
    fn groups_are_those_of_the_rfcs() {
        let group = solicited_node(VIP);
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(group_mac(group), MacAddr(0x33, 0x33, 0xff, 0x12, 0x34, 0x56));
    }

    #[test]
    fn what_is_sent_is_read_again() {
        let probe = solicitation(VIP);
        let source = Ipv6Addr::UNSPECIFIED;
        assert_eq!(parse(&probe), Some((VIP, Message::Solicitation { source })));
        let answer = advertisement(OWN, ALL_NODES, VIP, MAC, OVERRIDE);
        assert_eq!(parse(&answer), Some((VIP, Message::Advertisement { mac: MAC })));
        let question = question(OWN, MAC, VIP);
        assert_eq!(parse(&question), Some((VIP, Message::Solicitation { source: OWN })));
        for packet in [probe, answer, question] {
            // Each single bit that is not in the Ethernet padding, the traffic class or the flow label.
            for bit in (32..8 * packet.len()).filter(|bit| !(32..48).contains(bit)) {
                let mut broken = packet.clone();
                broken[bit / 8] ^= 1 << (bit % 8);
                let next_header = bit / 8 == 6;
                assert!(next_header || parse(&broken).is_none(), "bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = (parse(&bytes), mac_option(&bytes));
            for mut packet in [solicitation(VIP), advertisement(OWN, ALL_NODES, VIP, MAC, 0)] {
                packet.truncate(IP_HEADER + MESSAGE);
                packet.extend(&bytes);
                packet[5] = (packet.len() - IP_HEADER) as u8;
                let _ = parse(&packet);
            }
        }
    }
}
