//! Claim frames on the wire: a packet socket for IP protocol 150.
//!
//! Frames go to the MAC that the virtual IP resolves to, in every mode, so a claim shares the fate
//! of the SYN it is about. The socket has a membership of its own (and one in the IP
//! group, in mode `igmp`), so that it hears the cluster before anything is installed; it ends with the
//! socket. Overrun: the kernel drops frames at a full receive buffer; the sequence numbers show it
//! to the core as loss.

use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use clusterd::wire::{IP_PROTOCOL, TTL};
use pnet::packet::ip::IpNextHeaderProtocol;
use pnet::packet::ipv4::{Ipv4Flags, MutableIpv4Packet, checksum};
use socket2::Socket;

use super::cluster_mac::{MacMode, igmp_group};
use super::igmp::Membership;
use super::link::Link;
use super::packet_socket;

const IP_HEADER_LEN: usize = 20;
/// DSCP class selector 6, network control: ahead of bulk traffic where a
/// switch has queues.
const DSCP_CS6: u8 = 48;
/// Room for some ten thousand claims while the daemon does not run.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Sends and receives claim frames on one interface.
pub struct ClaimSocket {
    socket: Socket,
    destination: socket2::SockAddr,
    source: Ipv4Addr,
    vip: Ipv4Addr,
    /// Frames that the kernel did not take.
    pub unsent: u64,
    _membership: Option<Membership>,
}

impl ClaimSocket {
    /// Opens the socket and lets the interface receive frames to the MAC of `vip`.
    pub fn open(link: &Link, vip: Ipv4Addr, mode: MacMode) -> io::Result<Self> {
        // ip[9] is the protocol, ip[16..20] the destination.
        let filter = [
            packet_socket::load_byte(9),
            packet_socket::unless_equal(u32::from(IP_PROTOCOL), 3),
            packet_socket::load_word(16),
            packet_socket::unless_equal(vip.into(), 1),
            packet_socket::accept(),
            packet_socket::reject(),
        ];
        let socket = packet_socket::open(libc::ETH_P_IP, link.index, &filter)?;
        let mac = mode.address(vip);
        packet_socket::join(&socket, link.index, mac)?;
        packet_socket::force_receive_buffer(&socket, RECEIVE_BUFFER)?;
        let membership = match mode {
            MacMode::Igmp => Some(Membership::join(igmp_group(vip), link.index)?),
            MacMode::Multicast | MacMode::Stealth | MacMode::Shared => None,
        };
        let destination = packet_socket::address(libc::ETH_P_IP, link.index, mac);
        let source = link.address;
        Ok(Self { socket, destination, source, vip, unsent: 0, _membership: membership })
    }

    /// Sends one frame. What the kernel does not take now is counted as unsent:
    /// a claim is worthless later.
    pub fn send(&mut self, frame: &[u8]) {
        let mut packet = vec![0; IP_HEADER_LEN + frame.len()];
        packet[IP_HEADER_LEN..].copy_from_slice(frame);
        let mut ip = MutableIpv4Packet::new(&mut packet).expect("the buffer has a header's length");
        ip.set_version(4);
        ip.set_header_length(5);
        ip.set_dscp(DSCP_CS6);
        ip.set_total_length((IP_HEADER_LEN + frame.len()) as u16);
        ip.set_flags(Ipv4Flags::DontFragment);
        ip.set_ttl(TTL);
        ip.set_next_level_protocol(IpNextHeaderProtocol(IP_PROTOCOL));
        ip.set_source(self.source);
        ip.set_destination(self.vip);
        let sum = checksum(&ip.to_immutable());
        ip.set_checksum(sum);
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
