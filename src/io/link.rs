//! The interface: its facts, and the virtual IP as one of its addresses (rtnetlink).

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use pnet::util::MacAddr;
use rtnetlink::packet_core::ErrorMessage;

use crate::failure::Failure;
use crate::io::cluster_mac::MacMode;

mod condition;
mod reception;
mod route;

pub use condition::Condition;
pub use reception::Marked;
pub use route::{Hop, Route};

/// What the daemon must know of its interface.
#[derive(Clone, Debug)]
pub struct Link {
    /// The kernel's name of it; it may have been given by another one (altname).
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// The interface's own MAC, also while it has a cluster's instead (mode `shared`).
    pub mac: MacAddr,
    /// This host's own address in the subnet of the virtual IP.
    pub address: Ipv4Addr,
}

/// A connection to rtnetlink, driven by the current tokio runtime.
pub struct Links {
    handle: rtnetlink::Handle,
}

impl Links {
    /// Connects to the kernel.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("open rtnetlink")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Looks an interface up and checks that it can carry `vip`.
    pub async fn find(&self, name: &str, vip: Ipv4Addr) -> Result<Link> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = match links.next().await {
            Some(Ok(link)) => link,
            None | Some(Err(_)) => {
                let known = pnet::datalink::interfaces()
                    .into_iter()
                    .map(|interface| interface.name)
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(Failure::unavailable(&format!(
                    "there is no interface {name} here; there are: {known}"
                )));
            }
        };
        let name = &canonical_name(&link).unwrap_or_else(|| name.to_owned());
        let (LinkLayerType::Ether, Some(mac)) = (link.header.link_layer_type, mac_of(&link)) else {
            return Err(Failure::config(&format!(
                "{name} is not an Ethernet interface ({:?}): a virtual IP needs a segment on \
                 which every host receives every frame",
                link.header.link_layer_type
            )));
        };
        if name.contains(['"', '\\', '*']) {
            return Err(Failure::config(&format!(
                "nft cannot name the interface {name}; rename it: ip link set {name} name NEW"
            )));
        }
        if !link.header.flags.contains(LinkFlags::Up) {
            return Err(Failure::unavailable(&format!(
                "{name} is down; bring it up first: ip link set {name} up"
            )));
        }
        let index = link.header.index;
        let mut marks = reception::marks_of(&link);
        let shared = marks.find(|mark| mark.mode == MacMode::Shared);
        let own = shared.filter(|mark| mac == mark.mode.address(mark.vip)).map(|mark| mark.own);
        let address = self.own_address(name, index, vip).await?;
        Ok(Link { name: name.clone(), index, mac: own.unwrap_or(mac), address })
    }

    /// This host's address in the subnet that contains `vip`.
    async fn own_address(&self, name: &str, index: u32, vip: Ipv4Addr) -> Result<Ipv4Addr> {
        let addresses: Vec<_> =
            self.addresses().await?.into_iter().filter(|a| a.index == index).collect();
        let subnet = |a: &Address| u32::MAX.checked_shl(32 - u32::from(a.prefix)).unwrap_or(0);
        let found = addresses
            .iter()
            .find(|a| a.prefix < 32 && (u32::from(a.ip) ^ u32::from(vip)) & subnet(a) == 0);
        let Some(own) = found else {
            let has = addresses
                .iter()
                .map(|a| format!("{}/{}", a.ip, a.prefix))
                .collect::<Vec<_>>()
                .join(", ");
            return Err(Failure::config(&format!(
                "{vip} is in no subnet of {name} ({}): choose an unused address of a subnet that \
                 this host has an address in, or add one: ip address add ADDRESS/LEN dev {name}",
                if has.is_empty() { "it has no IPv4 address" } else { &has }
            )));
        };
        let host_part = u32::from(vip) & !subnet(own);
        if own.ip == vip {
            return Err(Failure::config(&format!(
                "{vip} is this host's own address on {name}; the virtual IP must be another one"
            )));
        }
        if own.prefix < 31 && (host_part == 0 || host_part == !subnet(own)) {
            return Err(Failure::config(&format!(
                "{vip} is the network or broadcast address of {}/{}; choose another one",
                own.ip, own.prefix
            )));
        }
        Ok(own.ip)
    }

    /// Is there an interface with this index?
    pub async fn exists(&self, index: u32) -> Result<bool> {
        match self.handle.link().get().match_index(index).execute().next().await {
            Some(Ok(_)) => Ok(true),
            None | Some(Err(rtnetlink::Error::NetlinkError(_))) => Ok(false),
            Some(Err(error)) => Err(error).context("look for the interface"),
        }
    }

    /// The addresses of hosts that an interface has: all but virtual IPs.
    pub async fn host_addresses(&self, index: u32) -> Result<Vec<Ipv4Addr>> {
        let all = self.addresses().await?.into_iter();
        Ok(all.filter(|a| a.index == index && a.prefix < 32).map(|a| a.ip).collect())
    }

    /// The interfaces that have `vip` as an address.
    pub async fn holders(&self, vip: Ipv4Addr) -> Result<Vec<u32>> {
        let holders = self.addresses().await?.into_iter().filter(|a| a.ip == vip);
        Ok(holders.map(|a| a.index).collect())
    }

    /// Makes `vip` an address of the interface. It may be one already.
    pub async fn add_address(&self, index: u32, vip: Ipv4Addr) -> Result<()> {
        let request = self.handle.address().add(index, IpAddr::V4(vip), 32).replace();
        request.execute().await.with_context(|| format!("add address {vip}/32"))
    }

    /// Removes `vip` from the interface. It may be gone already.
    pub async fn remove_address(&self, index: u32, vip: Ipv4Addr) -> Result<()> {
        let mut listing = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(IpAddr::V4(vip))
            .execute();
        while let Some(message) = listing.next().await {
            let message = message.with_context(|| format!("look for address {vip}"))?;
            match self.handle.address().del(message).execute().await {
                Ok(()) => {}
                Err(rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }))
                    if code.get() == -libc::EADDRNOTAVAIL => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("remove address {vip}"));
                }
            }
        }
        Ok(())
    }

    async fn addresses(&self) -> Result<Vec<Address>> {
        let mut listing = self.handle.address().get().execute();
        let mut addresses = Vec::new();
        while let Some(message) = listing.next().await {
            let message = message.context("list addresses")?;
            let ip = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
                _ => None,
            });
            if let Some(ip) = ip {
                let (index, prefix) = (message.header.index, message.header.prefix_len);
                addresses.push(Address { index, ip, prefix });
            }
        }
        Ok(addresses)
    }
}

/// The MAC of an interface, if it is one of Ethernet's length.
fn mac_of(link: &LinkMessage) -> Option<MacAddr> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => <[u8; 6]>::try_from(&mac[..]).ok().map(MacAddr::from),
        _ => None,
    })
}

/// The name that rules must use.
fn canonical_name(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

struct Address {
    index: u32,
    ip: Ipv4Addr,
    prefix: u8,
}
