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

use super::nft_sets::{Sets, address_key, end_key};
use super::rules::{
    ANSWERING, BY_BUCKET, DIVIDED, Family, LEASED, LEFT, OWN_BUCKETS, UNDIVIDED, WHOLE, table_name,
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
        let families = Family::those_of(vips).collect();
        Ok(Self { sets: Sets::open(table_name(vips.first()))?, families })
    }

    /// Sets what is this host's, the protocols whose new flows the kernel divides, and the UDP ports
    /// on which this host answers ([`ANSWERING_MAX`](super::rules::ANSWERING_MAX) at most), in one
    /// step and whatever was set before.
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
            .add(ANSWERING, answering.iter().map(|port| port.to_be_bytes()), None);
        for &family in &self.families {
            let is_in = |vip: &IpAddr| Family::of(*vip) == family;
            let ports = undivided.iter().filter(|service| is_in(&service.vip));
            let keys = ports.map(|&ServicePort { vip, port, .. }| end_key((vip, port).into()));
            let name = family.name(UNDIVIDED);
            transaction = transaction.flush(&name).add(&name, keys, None);
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

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use clusterd::protocol::PEERS_MAX;
    use clusterd::wire::{PORTS_MAX, VIPS_MAX};
    use pnet::util::MacAddr;

    use super::*;
    use crate::io::cluster_mac::MacMode;
    use crate::io::error::errno;
    use crate::io::link::{Addresses, Link};
    use crate::io::rules::{Guard, QueueBackend, Ruleset};
    use crate::io::testing::{in_namespace, nft};

    /// As many ports as this host and all peers can say that they do not serve.
    #[test]
    fn there_is_room_for_all_that_can_be_said() {
        in_namespace(|| {
            let vip = |number: usize| Ipv6Addr::from(0x2001_0db8 << 96 | (number as u128 + 1));
            let addresses = |number| Addresses::V6 { own: vip(1000), vip: vip(number) };
            let link = Link {
                name: "lo".to_owned(),
                index: 1,
                mac: MacAddr::zero(),
                addresses: addresses(0),
                further: (1..=VIPS_MAX).map(addresses).collect(),
            };
            let all = link.all().map(Addresses::vip).skip(1);
            let vips = Vips::new(vip(0).into(), all).unwrap();
            let rules = Ruleset {
                link,
                mac: MacMode::Multicast,
                guard: Guard::Rst,
                scope: None,
                queue: 1,
                backend: QueueBackend::Xtables,
            };
            nft(&rules.install());
            let ports = (1 + PEERS_MAX) * PORTS_MAX;
            let service = |number| ServicePort::tcp((vip(number % (1 + VIPS_MAX)), number as u16));
            let mut share = KernelShare {
                undivided: (0..2 * ports).map(service).collect(),
                whole: vips.all().skip(1).collect(),
                ..KernelShare::default()
            };
            assert_eq!(share.undivided.len(), 2 * ports);
            let mut buckets = KernelBuckets::open(&vips).unwrap();
            let none = BTreeSet::new();
            for _ in 0..2 {
                buckets.set(&share, [Protocol::Tcp], &none).unwrap();
            }
            share.undivided.insert(service(2 * ports));
            let error = buckets.set(&share, [], &none).unwrap_err();
            assert_eq!(errno(&error), Some(libc::ENFILE), "{error}");
        });
    }
}
