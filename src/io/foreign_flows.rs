//! Flows of datagrams that other hosts serve: the kernel drops what comes in
//! them, or leaves in them, without asking the daemon (spec 9).
//!
//! Each entry goes by itself after some seconds. The set is empty whenever the rules have been
//! installed; nothing need be done then, the daemon is only asked more often.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clusterd::flow::{FlowKey, Protocol};

use super::nft_sets::Sets;
use super::rules::{FOREIGN_FLOWS, table_name};

/// The set in the rules of one virtual IP.
#[derive(Debug)]
pub struct ForeignFlows {
    sets: Sets,
}

impl ForeignFlows {
    /// Opens a socket; changes nothing. The rules need not be there yet.
    pub fn open(vip: Ipv4Addr) -> io::Result<Self> {
        Ok(Self { sets: Sets::open(table_name(vip))? })
    }

    /// Blocks flows of datagrams for `time`, a few thousand at once at most. Those of IPv6 or
    /// of TCP are left out. One that is blocked already may stay so for the rest of its old time only.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not
    /// installed, with `ENFILE` if there is no room for all of them; none is blocked then.
    pub fn block(&mut self, flows: &[FlowKey], time: Duration) -> io::Result<()> {
        let keys = flows.iter().filter_map(key);
        self.sets.transaction().add(FOREIGN_FLOWS, keys, Some(time)).commit()
    }

    /// Unblocks all flows.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not installed.
    pub fn unblock_all(&mut self) -> io::Result<()> {
        self.sets.transaction().flush(FOREIGN_FLOWS).commit()
    }
}

/// Client address, client port, service port, each padded to four bytes.
fn key(flow: &FlowKey) -> Option<[u8; 12]> {
    match (flow.protocol, flow.client, flow.service) {
        (Protocol::Udp, SocketAddr::V4(client), SocketAddr::V4(service)) => {
            let [a, b, c, d] = client.ip().octets();
            let [e, f] = client.port().to_be_bytes();
            let [g, h] = service.port().to_be_bytes();
            Some([a, b, c, d, e, f, 0, 0, g, h, 0, 0])
        }
        _ => None,
    }
}
