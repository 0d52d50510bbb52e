//! Flows of datagrams that other hosts serve: the kernel drops what comes in
//! them, or leaves in them, without asking the daemon (spec 9).
//!
//! Each entry goes by itself after some seconds. The set is empty whenever the rules have been
//! installed; nothing need be done then, the daemon is only asked more often.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use clusterd::flow::{FlowKey, Protocol};

use super::nft_sets::Sets;
use super::rules::{FOREIGN_FLOWS, table_name};

/// The set in the rules of one virtual IP. Its flows are of that one's family.
#[derive(Debug)]
pub struct ForeignFlows {
    sets: Sets,
}

impl ForeignFlows {
    /// Opens a socket; changes nothing. The rules need not be there yet.
    pub fn open(vip: IpAddr) -> io::Result<Self> {
        Ok(Self { sets: Sets::open(table_name(vip))? })
    }

    /// Blocks flows of datagrams for `time`, a few thousand at once at most. Those of
    /// TCP are left out. One that is blocked already may stay so for the rest of its old time only.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not
    /// installed, with `ENFILE` if there is no room for all of them; none is blocked then.
    pub fn block(&mut self, flows: &[FlowKey], time: Duration) -> io::Result<()> {
        let keys = flows.iter().filter(|flow| flow.protocol == Protocol::Udp).map(key);
        self.sets.transaction().add(FOREIGN_FLOWS, keys, Some(time)).commit()
    }

    /// Unblocks all flows.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not installed.
    pub fn unblock_all(&mut self) -> io::Result<()> {
        self.sets.transaction().flush(FOREIGN_FLOWS).commit()
    }
}

/// Client address, client port, service port, each padded to a multiple of four bytes.
fn key(flow: &FlowKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(24);
    match flow.client.ip() {
        IpAddr::V4(ip) => key.extend(ip.octets()),
        IpAddr::V6(ip) => key.extend(ip.octets()),
    }
    for port in [flow.client.port(), flow.service.port()] {
        key.extend(port.to_be_bytes());
        key.extend([0; 2]);
    }
    key
}
