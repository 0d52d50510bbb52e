//! ARP for virtual IPs: a probe before the start, answers afterwards.
//!
//! Every host of the cluster answers every request with the same MAC, so it does not matter whose
//! answer comes first. The source of the frame is the interface's own MAC, which
//! switches may learn. The kernel's own answers are suppressed by the rules. Overrun: a lost request
//! is asked again.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::time::Duration;

use pnet::packet::arp::{
    ArpHardwareTypes, ArpOperation, ArpOperations, ArpPacket, MutableArpPacket,
};
use pnet::packet::ethernet::EtherTypes;
use pnet::util::MacAddr;
use socket2::{SockFilter, Socket};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use super::link::Link;
use super::neighbours::{PROBE_INTERVAL_MS, PROBES, Stranger};
use super::packet_socket::{self, INTEREST};

/// ARP for virtual IPs on one interface.
pub struct Arp {
    socket: AsyncFd<Socket>,
    link: Link,
    vips: Vec<Ipv4Addr>,
    mac: MacAddr,
}

/// An ARP packet about a virtual IP, or from a host that claims to have it.
struct Message {
    operation: ArpOperation,
    sender_mac: MacAddr,
    sender: Ipv4Addr,
    target: Ipv4Addr,
}

impl Arp {
    /// Opens the socket.
    pub fn open(link: &Link, vips: Vec<Ipv4Addr>, mac: MacAddr) -> io::Result<Self> {
        let socket = packet_socket::open(libc::ETH_P_ARP, link.index, &filter(&vips))?;
        // SAFETY: a `Socket` keeps its descriptor until it is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, INTEREST)? };
        Ok(Self { socket, link: link.clone(), vips, mac })
    }

    /// Asks whether a host says that a virtual IP has another MAC, and if so returns that.
    pub async fn probe(&self) -> io::Result<Option<Stranger>> {
        for _ in 0..PROBES {
            for &vip in &self.vips {
                self.ask(vip)?;
            }
            let interval = Duration::from_millis(rand::random_range(PROBE_INTERVAL_MS));
            let deadline = Instant::now() + interval;
            while let Ok(message) = timeout_at(deadline, self.receive()).await {
                if let Some(stranger) = self.stranger(&message?) {
                    return Ok(Some(stranger));
                }
            }
        }
        Ok(None)
    }

    /// The MACs that hosts say `vip`, one of those that this was opened for, has when they are asked.
    pub async fn holders(&self, vip: Ipv4Addr) -> io::Result<BTreeSet<MacAddr>> {
        let mut holders = BTreeSet::new();
        for _ in 0..PROBES {
            self.ask(vip)?;
            let deadline = Instant::now() + Duration::from_millis(*PROBE_INTERVAL_MS.start());
            while let Ok(message) = timeout_at(deadline, self.receive()).await {
                let message = message?;
                if message.sender == vip && message.operation == ArpOperations::Reply {
                    holders.insert(message.sender_mac);
                }
            }
        }
        Ok(holders)
    }

    /// Tells the segment where the virtual IPs are, for hosts that knew them elsewhere.
    pub fn announce(&self) -> io::Result<()> {
        self.vips.iter().try_for_each(|&vip| {
            self.send(ArpOperations::Request, (self.mac, vip), (MacAddr::zero(), vip))
        })
    }

    /// Answers requests until a host says that a virtual IP has another MAC;
    /// returns that then, and may be called again.
    pub async fn answer(&self) -> io::Result<Stranger> {
        loop {
            let message = self.receive().await?;
            if let Some(stranger) = self.stranger(&message) {
                return Ok(stranger);
            }
            let Message { operation, sender_mac, sender, target } = message;
            let request = operation == ArpOperations::Request;
            if request && self.vips.contains(&target) && sender != target {
                self.send(ArpOperations::Reply, (self.mac, target), (sender_mac, sender))?;
            }
        }
    }

    /// Does the sender claim a virtual IP?
    fn stranger(&self, message: &Message) -> Option<Stranger> {
        let Message { sender, sender_mac: mac, .. } = *message;
        let claims = self.vips.contains(&sender) && mac != self.mac;
        claims.then_some(Stranger { vip: sender.into(), mac })
    }

    /// RFC 5227: a probe has no sender address, so it teaches nobody anything.
    fn ask(&self, vip: Ipv4Addr) -> io::Result<()> {
        let sender = (self.link.mac, Ipv4Addr::UNSPECIFIED);
        self.send(ArpOperations::Request, sender, (MacAddr::zero(), vip))
    }

    /// A request goes to everybody: nobody's MAC is known of its target.
    fn send(
        &self,
        operation: ArpOperation,
        sender: (MacAddr, Ipv4Addr),
        target: (MacAddr, Ipv4Addr),
    ) -> io::Result<()> {
        let bytes = packet(operation, sender, target);
        let is_known = target.0 != MacAddr::zero();
        let destination = if is_known { target.0 } else { MacAddr::broadcast() };
        let address = packet_socket::address(libc::ETH_P_ARP, self.link.index, destination);
        packet_socket::send(self.socket.get_ref(), &bytes, &address)
    }

    async fn receive(&self) -> io::Result<Message> {
        let mut buffer = [MaybeUninit::uninit(); 128];
        loop {
            let mut ready = self.socket.ready(INTEREST).await?;
            match packet_socket::receive(self.socket.get_ref(), &mut buffer)? {
                None => ready.clear_ready(),
                Some(bytes) => {
                    if let Some(message) = parse(bytes) {
                        return Ok(message);
                    }
                }
            }
        }
    }
}

/// Packets from or for virtual IPs.
fn filter(vips: &[Ipv4Addr]) -> Vec<SockFilter> {
    use packet_socket::*;
    // arp[14..18] is the sender's IP address, arp[24..28] the target's. With 64 addresses the
    // farthest step skips 130.
    let count = vips.len() as u8;
    let compare = |behind: u8| {
        let to_accept = (0..count).rev().map(move |left| left + behind);
        vips.iter().zip(to_accept).map(|(&vip, skip)| if_equal(vip.into(), skip))
    };
    let mut filter = vec![load_word(14)];
    filter.extend(compare(count + 2));
    filter.push(load_word(24));
    filter.extend(compare(1));
    filter.extend([reject(), accept()]);
    filter
}

/// Tells the segment the new MAC of a host's own address (RFC 5227 3); else its neighbours would go on
/// sending to the old one for half a minute.
pub fn announce_host(interface: u32, address: Ipv4Addr, mac: MacAddr) -> io::Result<()> {
    let socket = packet_socket::open(libc::ETH_P_ARP, interface, &[packet_socket::reject()])?;
    let bytes = packet(ArpOperations::Request, (mac, address), (MacAddr::zero(), address));
    let everybody = packet_socket::address(libc::ETH_P_ARP, interface, MacAddr::broadcast());
    socket.send_to(&bytes, &everybody).map(drop)
}

/// An ARP packet, with MAC and address of sender and target.
pub fn packet(
    operation: ArpOperation,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> [u8; MutableArpPacket::minimum_packet_size()] {
    let mut bytes = [0; MutableArpPacket::minimum_packet_size()];
    let mut arp = MutableArpPacket::new(&mut bytes).expect("the buffer has ARP's length");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(operation);
    arp.set_sender_hw_addr(sender.0);
    arp.set_sender_proto_addr(sender.1);
    arp.set_target_hw_addr(target.0);
    arp.set_target_proto_addr(target.1);
    bytes
}

fn parse(bytes: &[u8]) -> Option<Message> {
    let arp = ArpPacket::new(bytes)?;
    let ethernet_ipv4 = arp.get_hardware_type() == ArpHardwareTypes::Ethernet
        && arp.get_protocol_type() == EtherTypes::Ipv4
        && arp.get_hw_addr_len() == 6
        && arp.get_proto_addr_len() == 4;
    ethernet_ipv4.then(|| Message {
        operation: arp.get_operation(),
        sender_mac: arp.get_sender_hw_addr(),
        sender: arp.get_sender_proto_addr(),
        target: arp.get_target_proto_addr(),
    })
}
