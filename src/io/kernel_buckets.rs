//! The buckets of clients that this host's kernel answers without the daemon
//! (spec 9): always for ICMP echo, and for SYNs while the overload form is on.
//!
//! The rules ([`super::rules`]) are installed with the sets empty: no echo
//! request is answered, and all SYNs go to the daemon. Whoever installs them
//! again, because another program removed them, empties the sets again; so
//! after that, [`KernelBuckets::set`] must be called again.

use std::io;
use std::net::Ipv4Addr;

use clusterd::bucket::{Bucket, Buckets};

use super::nft_sets::Sets;
use super::rules::{BY_BUCKET, DIVIDED, OWN_BUCKETS, table_name};

/// The sets and the counter in the rules of one virtual IP.
#[derive(Debug)]
pub struct KernelBuckets {
    sets: Sets,
}

impl KernelBuckets {
    /// Opens a socket; changes nothing. The rules need not be there yet.
    pub fn open(vip: Ipv4Addr) -> io::Result<Self> {
        Ok(Self { sets: Sets::open(table_name(vip))? })
    }

    /// Sets this host's own buckets, and whether the kernel decides about SYNs
    /// by them, in one step and whatever was set before.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not installed.
    pub fn set(&mut self, own: &Buckets, decide_syns: bool) -> io::Result<()> {
        // A number without a byte order of its own is in the host's.
        let own = own.iter().map(|Bucket(number)| u32::from(number).to_ne_bytes());
        let protocols = decide_syns.then_some([libc::IPPROTO_TCP as u8]);
        self.sets
            .transaction()
            .flush(OWN_BUCKETS)
            .add(OWN_BUCKETS, own, None)
            .flush(BY_BUCKET)
            .add(BY_BUCKET, protocols, None)
            .commit()
    }

    /// How many SYNs, to own and foreign buckets, the kernel has decided about
    /// by bucket since the rules were installed.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not installed.
    pub fn decided(&mut self) -> io::Result<u64> {
        self.sets.packets(DIVIDED)
    }
}
