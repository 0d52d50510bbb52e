//! Claim frames on the wire: a packet socket for IP protocol (next header) 150.
//!
//! Frames go to the MAC that the virtual IP resolves to, in every mode, so a claim shares the fate
//! of the SYN it is about. The socket has a membership of its own (and one in the IP
//! group, in mode `igmp`), so that it hears the cluster before anything is installed; it ends with the
//! socket. Overrun: the kernel drops frames at a full receive buffer; the sequence numbers show it
//! to the core as loss.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use clusterd::wire::{IP_PROTOCOL, TTL};
use pnet::packet::ip::IpNextHeaderProtocol;
use pnet::packet::ipv4::{Ipv4Flags, MutableIpv4Packet, checksum};
use pnet::packet::ipv6::MutableIpv6Packet;
use socket2::{SockFilter, Socket};

use super::cluster_mac::{MacMode, ip_group};
use super::link::{Addresses, Link};
use super::membership::Membership;
use super::packet_socket;

const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
/// DSCP class selector 6, network control: ahead of bulk traffic where a
/// switch has queues.
const DSCP_CS6: u8 = 48;
/// Room for some ten thousand claims while the daemon does not run.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Sends and receives claim frames on one interface.
pub struct ClaimSocket {
    socket: Socket,
    destination: socket2::SockAddr,
    addresses: Addresses,
    /// Frames that the kernel did not take.
    pub unsent: u64,
    _membership: Option<Membership>,
}

impl ClaimSocket {
    /// Opens the socket and lets the interface receive frames to the MAC of the virtual IP, if that is a
    /// group MAC.
    pub fn open(link: &Link, mode: MacMode) -> io::Result<Self> {
        let addresses = link.addresses;
        let ethertype = match addresses {
            Addresses::V4 { .. } => libc::ETH_P_IP,
            Addresses::V6 { .. } => libc::ETH_P_IPV6,
        };
        let socket = packet_socket::open(ethertype, link.index, &filter(addresses))?;
        let mac = mode.address(addresses.vip());
        // A unicast MAC is received beyond the end of this process (`install.rs`), or the interface's own.
        // With a membership of this socket that would find the MAC there and add none.
        if mac.is_multicast() {
            packet_socket::join(&socket, link.index, mac)?;
        }
        packet_socket::force_receive_buffer(&socket, RECEIVE_BUFFER)?;
        let membership = match mode {
            MacMode::Igmp => {
                let group = ip_group(addresses.vip());
                Some(Membership::join(group, link.index)?)
            }
            MacMode::Multicast | MacMode::Stealth | MacMode::Shared => None,
        };
        let destination = packet_socket::address(ethertype, link.index, mac);
        Ok(Self { socket, destination, addresses, unsent: 0, _membership: membership })
    }

    /// Sends one frame. What the kernel does not take now is counted as unsent:
    /// a claim is worthless later.
    pub fn send(&mut self, frame: &[u8]) {
        let packet = packet(self.addresses, frame);
        if self.socket.send_to(&packet, &self.destination).is_err() {
            self.unsent += 1;
        }
    }

    /// The next IP packet of the claim protocol, or `None` when there is no more.
    pub fn receive<'b>(&self, buffer: &'b mut [MaybeUninit<u8>]) -> io::Result<Option<&'b [u8]>> {
        packet_socket::receive(&self.socket, buffer)
    }

    /// When the kernel got the packet received last, since 1970. Asking makes the kernel take
    /// the time of every packet on this host, those in the queues included.
    pub fn arrived(&self) -> Option<Duration> {
        packet_socket::arrived(&self.socket)
    }
}

impl AsRawFd for ClaimSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Lets frames to the virtual IP pass.
fn filter(addresses: Addresses) -> Vec<SockFilter> {
    use packet_socket::*;
    match addresses {
        // ip[9] is the protocol, ip[16..20] the destination.
        Addresses::V4 { vip, .. } => vec![
            load_byte(9),
            unless_equal(u32::from(IP_PROTOCOL), 3),
            load_word(16),
            unless_equal(vip.into(), 1),
            accept(),
            reject(),
        ],
        // ip[6] is the next header, ip[24..40] the destination.
        Addresses::V6 { vip, .. } => {
            let mut filter = vec![load_byte(6), unless_equal(u32::from(IP_PROTOCOL), 9)];
            filter.extend(unless_address(24, vip, 1));
            filter.extend([accept(), reject()]);
            filter
        }
    }
}

/// The IP packet that carries `frame`.
fn packet(addresses: Addresses, frame: &[u8]) -> Vec<u8> {
    match addresses {
        Addresses::V4 { own, vip } => {
            let mut packet = vec![0; IPV4_HEADER_LEN + frame.len()];
            packet[IPV4_HEADER_LEN..].copy_from_slice(frame);
            let mut ip =
                MutableIpv4Packet::new(&mut packet).expect("the buffer has a header's length");
            ip.set_version(4);
            ip.set_header_length(5);
            ip.set_dscp(DSCP_CS6);
            ip.set_total_length((IPV4_HEADER_LEN + frame.len()) as u16);
            ip.set_flags(Ipv4Flags::DontFragment);
            ip.set_ttl(TTL);
            ip.set_next_level_protocol(IpNextHeaderProtocol(IP_PROTOCOL));
            ip.set_source(own);
            ip.set_destination(vip);
            let sum = checksum(&ip.to_immutable());
            ip.set_checksum(sum);
            packet
        }
        Addresses::V6 { own, vip } => {
            let mut packet = vec![0; IPV6_HEADER_LEN + frame.len()];
            packet[IPV6_HEADER_LEN..].copy_from_slice(frame);
            let mut ip =
                MutableIpv6Packet::new(&mut packet).expect("the buffer has a header's length");
            ip.set_version(6);
            // Its upper six bits are the DSCP.
            ip.set_traffic_class(DSCP_CS6 << 2);
            ip.set_payload_length(frame.len() as u16);
            ip.set_hop_limit(TTL);
            ip.set_next_header(IpNextHeaderProtocol(IP_PROTOCOL));
            ip.set_source(own);
            ip.set_destination(vip);
            packet
        }
    }
}
