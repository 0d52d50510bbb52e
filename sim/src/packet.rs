//! What travels between clients and hosts.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;

use clusterd::flow::{FlowKey, Protocol};

/// The virtual IP of every simulated cluster.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The port of the one service.
pub const PORT: u16 = 80;
/// The first client address.
const CLIENTS: u32 = 0x0a40_0000;
/// Clients take turns by so many addresses, then by ports, then by further addresses.
const ADDRESSES: u32 = 250;
/// Ports of one client address, from 1024 on.
const PORTS: u32 = 64_000;

/// A client address and port, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u32);

impl FlowId {
    /// The flow as the hosts know it.
    pub fn key(self) -> FlowKey {
        let (block, place) = (self.0 / (ADDRESSES * PORTS), self.0 % (ADDRESSES * PORTS));
        let address = Ipv4Addr::from(CLIENTS + block * ADDRESSES + place % ADDRESSES);
        let port = 1024 + (place / ADDRESSES) as u16;
        FlowKey::tcp(SocketAddrV4::new(address, port), SocketAddrV4::new(VIP, PORT))
    }

    /// The number of a flow that [`FlowId::key`] has made.
    pub fn of(key: &FlowKey) -> Option<Self> {
        let SocketAddr::V4(client) = key.client else { return None };
        let address = u32::from(*client.ip()).checked_sub(CLIENTS)?;
        let port = u32::from(client.port()).checked_sub(1024)?;
        let (block, address) = (address / ADDRESSES, address % ADDRESSES);
        let made = key.protocol == Protocol::Tcp && port < PORTS;
        made.then(|| Self((block * PORTS + port) * ADDRESSES + address))
    }
}

/// What a TCP segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Opens a connection.
    Syn,
    /// Answers a SYN.
    SynAck,
    /// Anything on a connection, with data or without.
    Ack,
    /// The sender has no more to say.
    Fin,
    /// Ends a connection at once.
    Rst,
    /// Refuses a SYN.
    Refusal,
}

/// A TCP segment; which way it travels is known from where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Between whom.
    pub flow: FlowId,
    /// What for.
    pub flag: Flag,
    /// Its sequence number.
    pub sequence: u32,
    /// What it acknowledges; 0 in a SYN.
    pub acknowledgement: u32,
    /// Bytes of data.
    pub length: u32,
}

/// Ethernet, IPv4 and TCP headers without options, and what surrounds a frame on the wire:
/// preamble, check sequence, gap.
const OVERHEAD: u32 = 14 + 20 + 20 + 24;
/// Ethernet and IPv4 headers of a claim, and the same.
const CLAIM_OVERHEAD: u32 = 14 + 20 + 24;
/// The shortest frame, with preamble and gap.
const SHORTEST: u32 = 84;
/// A full frame on the wire.
pub const FULL_FRAME: u32 = 1_538;

/// A frame.
#[derive(Clone, Debug)]
pub enum Packet {
    /// Of a connection.
    Tcp(Segment),
    /// Bytes of a claim frame.
    Claim(Rc<[u8]>),
}

impl Packet {
    /// Its length on the wire, in bytes. Data beyond one frame is counted, too.
    pub fn wire_length(&self) -> u32 {
        match self {
            Packet::Tcp(segment) => (OVERHEAD + segment.length).max(SHORTEST),
            Packet::Claim(bytes) => (CLAIM_OVERHEAD + bytes.len() as u32).max(SHORTEST),
        }
    }

    /// It is a claim frame.
    pub fn is_claim(&self) -> bool {
        matches!(self, Packet::Claim(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_has_one_number() {
        for number in [0, 1, 249, 250, 63_999, 64_000, 1_000_000, 16_000_000, 0x4000_0000] {
            assert_eq!(FlowId::of(&FlowId(number).key()), Some(FlowId(number)));
        }
        assert_ne!(FlowId(0).key().client.ip(), FlowId(1).key().client.ip());
    }
}
