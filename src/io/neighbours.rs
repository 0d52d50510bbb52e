//! Who has the virtual IP: ARP or neighbour discovery, by its family.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use pnet::util::MacAddr;

use super::arp::{self, Arp};
use super::cluster_mac::MacMode;
use super::link::{Addresses, Link};
use super::ndp::{self, Ndp};

/// Either protocol for one virtual IP on one interface.
pub enum Neighbours {
    /// Of IPv4.
    Arp(Arp),
    /// Of IPv6.
    Ndp(Ndp),
}

impl Neighbours {
    /// Opens the socket.
    pub fn open(link: &Link, mode: MacMode) -> io::Result<Self> {
        let mac = mode.address(link.addresses.vip());
        match link.addresses {
            Addresses::V4 { vip, .. } => Arp::open(link, vip, mac).map(Self::Arp),
            Addresses::V6 { own, vip } => Ndp::open(link.index, own, vip, mac).map(Self::Ndp),
        }
    }

    /// Asks whether a host says that the virtual IP has another MAC, and if so returns that.
    pub async fn probe(&self) -> io::Result<Option<MacAddr>> {
        match self {
            Self::Arp(arp) => arp.probe().await,
            Self::Ndp(ndp) => ndp.probe().await,
        }
    }

    /// The MACs that hosts say the virtual IP has, when they are asked.
    pub async fn holders(&self) -> io::Result<BTreeSet<MacAddr>> {
        match self {
            Self::Arp(arp) => arp.holders().await,
            Self::Ndp(ndp) => ndp.holders().await,
        }
    }

    /// Tells the segment where the virtual IP is, for hosts that knew it elsewhere.
    pub fn announce(&self) -> io::Result<()> {
        match self {
            Self::Arp(arp) => arp.announce(),
            Self::Ndp(ndp) => ndp.announce(),
        }
    }

    /// Answers who asks until a host says that the virtual IP has another MAC;
    /// returns that then, and may be called again.
    pub async fn answer(&self) -> io::Result<MacAddr> {
        match self {
            Self::Arp(arp) => arp.answer().await,
            Self::Ndp(ndp) => ndp.answer().await,
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
