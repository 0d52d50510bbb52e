//! What this host's kernel answers without asking the daemon (spec 9): the buckets of
//! clients, always for ICMP echo, for SYNs while the overload form is on, for
//! datagrams if the daemon was told so; and flows of datagrams that are this host's.
//!
//! Of datagrams and echo requests no client says whom it has chosen. So once the
//! others take this host for dead its kernel must not answer them, whatever
//! has become of the daemon: it may for as long as [`KernelBuckets::lease`] says.
//!
//! The rules ([`super::rules`]) are installed with the sets empty: no echo
//! request is answered, and all SYNs go to the daemon. Whoever installs them
//! again, because another program removed them, empties the sets again; so
//! after that, [`KernelBuckets::set`] must be called again.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use clusterd::bucket::{Bucket, Buckets};
use clusterd::flow::Protocol;

use super::nft_sets::Sets;
use super::rules::{
    ANSWERING, ANSWERING_MAX, BY_BUCKET, DIVIDED, LEASED, OWN_BUCKETS, UNDIVIDED, table_name,
};

/// The sets and the counter in the rules of one virtual IP.
#[derive(Debug)]
pub struct KernelBuckets {
    sets: Sets,
}

impl KernelBuckets {
    /// Opens a socket; changes nothing. The rules need not be there yet.
    pub fn open(vip: IpAddr) -> io::Result<Self> {
        Ok(Self { sets: Sets::open(table_name(vip))? })
    }

    /// Sets this host's own buckets, the protocols whose new flows the kernel divides by them, the
    /// TCP ports that it does not, and the UDP ports on which this host answers, in one step
    /// and whatever was set before.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not installed.
    pub fn set(
        &mut self,
        own: &Buckets,
        protocols: impl IntoIterator<Item = Protocol>,
        undivided: &BTreeSet<u16>,
        answering: &BTreeSet<u16>,
    ) -> io::Result<()> {
        // A number without a byte order of its own is in the host's.
        let own = own.iter().map(|Bucket(number)| u32::from(number).to_ne_bytes());
        let protocols = protocols.into_iter().map(|protocol| [protocol.number()]);
        self.sets
            .transaction()
            .flush(OWN_BUCKETS)
            .add(OWN_BUCKETS, own, None)
            .flush(BY_BUCKET)
            .add(BY_BUCKET, protocols, None)
            .flush(UNDIVIDED)
            .add(UNDIVIDED, undivided.iter().map(|port| port.to_be_bytes()), None)
            .flush(ANSWERING)
            .add(
                ANSWERING,
                answering.iter().take(ANSWERING_MAX).map(|port| port.to_be_bytes()),
                None,
            )
            .commit()
    }

    /// Lets the kernel answer datagrams and echo requests by itself for `time` from now.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not installed.
    pub fn lease(&mut self, time: Duration) -> io::Result<()> {
        let protocols = [libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6];
        let protocols = protocols.map(|protocol| [protocol as u8]);
        self.sets.transaction().flush(LEASED).add(LEASED, protocols, Some(time)).commit()
    }

    /// How many SYNs, to own and foreign buckets, the kernel has decided about
    /// by bucket since the rules were installed.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not installed.
    pub fn decided(&mut self) -> io::Result<u64> {
        self.sets.packets(DIVIDED)
    }
}
