//! Membership in an IP group, as any program that listens to one has it.
//!
//! The kernel reports it to the segment (IGMP, or MLD for IPv6), answers queries, and says goodbye
//! when the socket is closed, however the process ends. So a switch stops forwarding
//! to a host whose daemon has died; until the next start its established connections stall there.

use std::io;
use std::net::IpAddr;

use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

/// A membership that lasts as long as this value.
#[derive(Debug)]
pub struct Membership {
    _socket: Socket,
}

impl Membership {
    /// Joins `group` on the interface with this index.
    pub fn join(group: IpAddr, interface: u32) -> io::Result<Self> {
        let socket = match group {
            IpAddr::V4(group) => {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface))?;
                socket
            }
            IpAddr::V6(group) => {
                let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
                socket.join_multicast_v6(&group, interface)?;
                socket
            }
        };
        Ok(Self { _socket: socket })
    }
}
