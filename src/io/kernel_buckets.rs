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

use clusterd::bucket::Bucket;
use clusterd::flow::{Protocol, ServicePort};
use clusterd::protocol::{KernelShare, Vips};

use super::nft_sets::Sets;
use super::rules::{
    ANSWERING, ANSWERING_MAX, BY_BUCKET, DIVIDED, Family, LEASED, LEFT, OWN_BUCKETS, UNDIVIDED,
    UNDIVIDED_MAX, WHOLE, table_name,
};

/// The sets and the counter in the rules of one cluster.
#[derive(Debug)]
pub struct KernelBuckets {
    sets: Sets,
    /// Those of which there are virtual IPs.
    families: Vec<Family>,
}

impl KernelBuckets {
    /// Opens a socket; changes nothing. The rules need not be there yet.
    pub fn open(vips: &Vips) -> io::Result<Self> {
        let has = |family: &Family| vips.all().any(|vip| Family::of(vip) == *family);
        let families = Family::ALL.into_iter().filter(has).collect();
        Ok(Self { sets: Sets::open(table_name(vips.first()))?, families })
    }

    /// Sets what is this host's, the protocols whose new flows the kernel divides, and the UDP ports
    /// on which this host answers, in one step and whatever was set before.
    ///
    /// Fails with `ENOENT` ([`super::error::errno`]) while the rules are not installed.
    pub fn set(
        &mut self,
        share: &KernelShare,
        protocols: impl IntoIterator<Item = Protocol>,
        answering: &BTreeSet<u16>,
    ) -> io::Result<()> {
        let KernelShare { own, decide_syns: _, undivided, whole, left } = share;
        // A number without a byte order of its own is in the host's.
        let own = own.iter().map(|Bucket(number)| u32::from(number).to_ne_bytes());
        let protocols = protocols.into_iter().map(|protocol| [protocol.number()]);
        let mut transaction = self
            .sets
            .transaction()
            .flush(OWN_BUCKETS)
            .add(OWN_BUCKETS, own, None)
            .flush(BY_BUCKET)
            .add(BY_BUCKET, protocols, None)
            .flush(ANSWERING)
            .add(
                ANSWERING,
                answering.iter().take(ANSWERING_MAX).map(|port| port.to_be_bytes()),
                None,
            );
        for &family in &self.families {
            let is_in = |vip: &IpAddr| Family::of(*vip) == family;
            let ports = undivided.iter().take(UNDIVIDED_MAX).filter(|service| is_in(&service.vip));
            let name = family.name(UNDIVIDED);
            transaction = transaction.flush(&name).add(&name, ports.map(service_key), None);
            for (set, vips) in [(WHOLE, whole), (LEFT, left)] {
                let name = family.name(set);
                let keys = vips.iter().copied().filter(is_in).map(address_key);
                transaction = transaction.flush(&name).add(&name, keys, None);
            }
        }
        transaction.commit()
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

fn address_key(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Virtual IP and port, each padded to a multiple of four bytes.
fn service_key(service: &ServicePort) -> Vec<u8> {
    let mut key = address_key(service.vip);
    key.extend(service.port.to_be_bytes());
    key.extend([0; 2]);
    key
}
