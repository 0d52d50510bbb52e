//! Flows of datagrams that other hosts serve: the kernel drops what comes in
//! them, or leaves in them, without asking the daemon (spec 9).
//!
//! Each entry goes by itself after some seconds. The set is empty whenever the rules have been
//! installed; nothing need be done then, the daemon is only asked more often.

use std::io;
use std::time::Duration;

use clusterd::flow::{FlowKey, Protocol};
use clusterd::protocol::Vips;

use super::nft_sets::{Sets, end_key};
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
        let names = |family: Family| (family, family.name(FOREIGN_FLOWS));
        let names = Family::those_of(vips).map(names).collect();
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

fn key(flow: &FlowKey) -> Vec<u8> {
    [flow.client, flow.service].map(end_key).concat()
}
