//! Who has the virtual IPs: ARP and neighbour discovery, by their families.

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use pnet::util::MacAddr;

use super::arp::{self, Arp};
use super::cluster_mac::MacMode;
use super::link::{Addresses, Link};
use super::ndp::{self, Ndp};

/// Probes sent for each virtual IP, and the milliseconds after each in which another host may
/// object. RFC 5227 2.1.1 has three probes one to two seconds apart, at random so
/// that hosts switched on together do not probe in step, RFC 4862 5.1 one probe and one second; a LAN
/// answers in milliseconds, so a tenth of that will do.
pub(super) const PROBES: u32 = 3;
pub(super) const PROBE_INTERVAL_MS: RangeInclusive<u64> = 100..=200;

/// Either protocol for the virtual IPs on one interface: one socket of each, however many there are.
pub struct Neighbours {
    arp: Option<Arp>,
    ndp: Option<Ndp>,
}

/// Another MAC that a host says a virtual IP has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stranger {
    /// The virtual IP.
    pub vip: IpAddr,
    /// The MAC.
    pub mac: MacAddr,
}

impl Neighbours {
    /// Opens the sockets.
    pub fn open(link: &Link, mode: MacMode) -> io::Result<Self> {
        let mac = mode.address(link.addresses.vip());
        let (mut v4, mut v6, mut link_local) = (Vec::new(), Vec::new(), None);
        for addresses in link.all() {
            match addresses {
                Addresses::V4 { vip, .. } => v4.push(vip),
                Addresses::V6 { own, vip } => {
                    v6.push(vip);
                    link_local = Some(own);
                }
            }
        }
        let arp = (!v4.is_empty()).then(|| Arp::open(link, v4, mac)).transpose()?;
        let ndp = link_local.map(|own| Ndp::open(link.index, own, v6, mac)).transpose()?;
        Ok(Self { arp, ndp })
    }

    /// Asks whether a host says that a virtual IP has another MAC, and if so returns that.
    pub async fn probe(&self) -> io::Result<Option<Stranger>> {
        let (v4, v6) = tokio::try_join!(
            async {
                match &self.arp {
                    Some(arp) => arp.probe().await,
                    None => Ok(None),
                }
            },
            async {
                match &self.ndp {
                    Some(ndp) => ndp.probe().await,
                    None => Ok(None),
                }
            }
        )?;
        Ok(v4.or(v6))
    }

    /// The MACs that hosts say `vip`, one of those that this was opened for, has when they are asked.
    pub async fn holders(&self, vip: IpAddr) -> io::Result<BTreeSet<MacAddr>> {
        match (vip, &self.arp, &self.ndp) {
            (IpAddr::V4(vip), Some(arp), _) => arp.holders(vip).await,
            (IpAddr::V6(vip), _, Some(ndp)) => ndp.holders(vip).await,
            (IpAddr::V4(_), None, _) | (IpAddr::V6(_), _, None) => Ok(BTreeSet::new()),
        }
    }

    /// Tells the segment where the virtual IPs are, for hosts that knew them elsewhere.
    pub fn announce(&self) -> io::Result<()> {
        self.arp.as_ref().map_or(Ok(()), Arp::announce)?;
        self.ndp.as_ref().map_or(Ok(()), Ndp::announce)
    }

    /// Answers who asks until a host says that a virtual IP has another MAC;
    /// returns that then, and may be called again.
    pub async fn answer(&self) -> io::Result<Stranger> {
        tokio::select! {
            stranger = async {
                match &self.arp {
                    Some(arp) => arp.answer().await,
                    None => pending().await,
                }
            } => stranger,
            stranger = async {
                match &self.ndp {
                    Some(ndp) => ndp.answer().await,
                    None => pending().await,
                }
            } => stranger,
        }
    }
}

/// Tells the segment the new MAC of a host's own address; else its neighbours would go on
/// sending to the old one for half a minute.
pub fn announce_host(interface: u32, address: IpAddr, mac: MacAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => arp::announce_host(interface, address, mac),
        IpAddr::V6(address) => ndp::announce_host(interface, address, mac),
    }
}
