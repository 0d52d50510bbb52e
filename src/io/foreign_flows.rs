//! Flows of datagrams that other hosts serve: the kernel drops what comes in
//! them, or leaves in them, without asking the daemon (spec 9).
//!
//! Each entry goes by itself after some seconds. The set is empty whenever the rules have been
//! installed; nothing need be done then, the daemon is only asked more often.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use clusterd::flow::{FlowKey, Protocol};
use clusterd::protocol::Vips;

use super::nft_sets::Sets;
use super::rules::{FOREIGN_FLOWS, Family, table_name};

/// The sets in the rules of one cluster, of each family of which it has a virtual IP.
#[derive(Debug)]
pub struct ForeignFlows {
    sets: Sets,
    names: Vec<(Family, String)>,
}

impl ForeignFlows {
    /// Opens a socket; changes nothing. The rules need not be there yet.
    pub fn open(vips: &Vips) -> io::Result<Self> {
        let has = |family: &Family| vips.all().any(|vip| Family::of(vip) == *family);
        let families = Family::ALL.into_iter().filter(has);
        let names = families.map(|family| (family, family.name(FOREIGN_FLOWS))).collect();
        Ok(Self { sets: Sets::open(table_name(vips.first()))?, names })
    }

    /// Blocks flows of datagrams for `time`, a few thousand at once at most. Those of
    /// TCP are left out. One that is blocked already may stay so for the rest of its old time only.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not
    /// installed, with `ENFILE` if there is no room for all of them; none is blocked then.
    pub fn block(&mut self, flows: &[FlowKey], time: Duration) -> io::Result<()> {
        let mut transaction = self.sets.transaction();
        for (family, name) in &self.names {
            let is_in = |flow: &&FlowKey| {
                flow.protocol == Protocol::Udp && Family::of(flow.service.ip()) == *family
            };
            transaction = transaction.add(name, flows.iter().filter(is_in).map(key), Some(time));
        }
        transaction.commit()
    }

    /// Unblocks all flows.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not installed.
    pub fn unblock_all(&mut self) -> io::Result<()> {
        let transaction = self.sets.transaction();
        let flushed = self.names.iter().fold(transaction, |it, (_, name)| it.flush(name));
        flushed.commit()
    }
}

/// Client address and port, virtual IP and port, each padded to a multiple of four bytes.
fn key(flow: &FlowKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(40);
    for end in [flow.client, flow.service] {
        match end.ip() {
            IpAddr::V4(ip) => key.extend(ip.octets()),
            IpAddr::V6(ip) => key.extend(ip.octets()),
        }
        key.extend(end.port().to_be_bytes());
        key.extend([0; 2]);
    }
    key
}
