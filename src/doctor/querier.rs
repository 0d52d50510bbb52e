//! Does somebody on the segment ask for members of groups? A switch that snoops forgets members that
//! nobody asks for, after some four minutes (RFC 3376 8.4), and with them the hosts of mode `igmp`.
//!
//! Queries come every two minutes or so. But who leaves a group is asked at once, by whoever asks,
//! whether there are other members (RFC 3376 6.4.2, RFC 3810 7.6.2): so this joins a group of its own and leaves it.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use pnet::packet::ipv6::Ipv6Packet;

use crate::io::doctor_socket::Receiver;
use crate::io::link::Link;
use crate::io::membership::Membership;
use crate::io::packet::ip_payload;

/// The type of an IGMP query (RFC 3376 4).
const IGMP_QUERY: u8 = 0x11;
/// The type of one of MLD (RFC 3810 5.1).
const MLD_QUERY: u8 = 130;
/// Longest packet that is looked at.
const FRAME_MAX: usize = 1536;

/// Listens to queries.
pub struct QuerierWatch {
    queries: Receiver,
    membership: RefCell<Option<Membership>>,
    source: Cell<Option<IpAddr>>,
}

impl QuerierWatch {
    /// Joins a group that is nobody's.
    pub fn open(link: &Link) -> Result<Self> {
        let group = match link.addresses.vip() {
            // Administratively scoped, and not assigned to anybody (RFC 2365 6.2.1).
            IpAddr::V4(_) => {
                let [a, b] = rand::random();
                Ipv4Addr::new(239, 254, a, b).into()
            }
            // See `ip_group`.
            IpAddr::V6(_) => {
                let id = 0x8000_0000 | rand::random::<u32>() & 0x3fff_ffff;
                Ipv6Addr::from(0xff15 << 112 | u128::from(id)).into()
            }
        };
        Ok(Self {
            queries: Receiver::group_queries(link, group).context("open a socket for queries")?,
            membership: RefCell::new(Some(
                Membership::join(group, link.index).context("join a group")?,
            )),
            source: Cell::new(None),
        })
    }

    /// Leaves the group. To be called when its report has got to the querier.
    pub fn provoke(&self) {
        drop(self.membership.take());
    }

    /// Who has asked so far. Switches ask from 0.0.0.0 (RFC 4541 2.1.1).
    pub fn source(&self) -> Option<IpAddr> {
        self.source.get()
    }

    /// Listens for ever.
    pub async fn listen(&self) -> Result<Infallible> {
        let mut buffer = [MaybeUninit::uninit(); FRAME_MAX];
        loop {
            let packet = self.queries.receive(&mut buffer).await.context("listen to queries")?;
            if let Some(source) = query_source(packet) {
                self.source.set(Some(source));
            }
        }
    }
}

/// The source of a packet that has passed the filter, if it is a query.
fn query_source(packet: &[u8]) -> Option<IpAddr> {
    let (_, payload) = ip_payload(packet)?;
    match packet.first()? >> 4 {
        4 => {
            let [a, b, c, d] = *packet.get(12..16)?.first_chunk()?;
            (payload.first() == Some(&IGMP_QUERY)).then(|| Ipv4Addr::new(a, b, c, d).into())
        }
        _ => {
            // A hop-by-hop header first, which says how long it is.
            let message = payload.get(8 * (1 + usize::from(*payload.get(1)?))..)?;
            let source = Ipv6Packet::new(packet)?.get_source();
            let is_query = message.first() == Some(&MLD_QUERY);
            is_query.then(|| source.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From the IP header on, with the option Router Alert.
    fn igmp(kind: u8) -> Vec<u8> {
        let header = [0x46, 0xc0, 0, 32, 0, 0, 0x40, 0, 1, 2, 0, 0, 10, 77, 0, 1, 224, 0, 0, 1];
        [&header[..], &[0x94, 4, 0, 0], &[kind, 10, 0, 0, 0, 0, 0, 0]].concat()
    }

    fn mld(kind: u8) -> Vec<u8> {
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let mut packet = vec![0x60, 0, 0, 0, 0, 36, 0, 1];
        packet.extend([address("fe80::a"), address("ff02::1")].concat());
        packet.extend([58, 0, 5, 2, 0, 0, 1, 0, kind]);
        packet.resize(40 + 36, 0);
        packet
    }

    #[test]
    fn a_query_is_no_report() {
        assert_eq!(query_source(&igmp(0x11)), Some("10.77.0.1".parse().unwrap()));
        assert_eq!(query_source(&mld(130)), Some("fe80::a".parse().unwrap()));
        assert_eq!((query_source(&igmp(0x22)), query_source(&mld(143))), (None, None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(rest in proptest::collection::vec(any::<u8>(), 0..100)) {
            for first in [0x45, 0x46, 0x60] {
                let _ = query_source(&[&[first], &rest[..]].concat());
            }
        }
    }
}
