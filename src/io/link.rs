//! The interface: its facts, and the virtual IP as one of its addresses (rtnetlink).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use clusterd::protocol::Vips;
use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use pnet::util::MacAddr;
use rtnetlink::packet_core::ErrorMessage;

use crate::failure::Failure;
use crate::io::cluster_mac::MacMode;

mod condition;
mod own_address;
mod reception;
mod route;

pub use condition::Condition;
#[cfg(test)]
pub use condition::Master;
pub use reception::{Marked, require_packets_in_group_frames};
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
    /// The first virtual IP and this host's own address beside it.
    pub addresses: Addresses,
    /// The same of the further ones.
    pub further: Vec<Addresses>,
}

impl Link {
    /// All virtual IPs, the first one first, and this host's own address beside each.
    pub fn all(&self) -> impl Iterator<Item = Addresses> {
        std::iter::once(self.addresses).chain(self.further.iter().copied())
    }
}

/// A virtual IP, and the address from which this host speaks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// `own` is in the same subnet.
    V4 { own: Ipv4Addr, vip: Ipv4Addr },
    /// `own` is the link-local one, which is there whatever else is.
    V6 { own: Ipv6Addr, vip: Ipv6Addr },
}

impl Addresses {
    /// The virtual IP.
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 { vip, .. } => vip.into(),
            Self::V6 { vip, .. } => vip.into(),
        }
    }

    /// This host's own address.
    pub fn own(self) -> IpAddr {
        match self {
            Self::V4 { own, .. } => own.into(),
            Self::V6 { own, .. } => own.into(),
        }
    }
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

    /// Looks an interface up and checks that it can carry the virtual IPs.
    pub async fn find(&self, name: &str, vips: &Vips) -> Result<Link> {
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
        let segment = self.segment(name, index, vips).await?;
        let further = vips.all().skip(1).map(|vip| segment.addresses_with(vip));
        Ok(Link {
            name: name.clone(),
            index,
            mac: own.unwrap_or(mac),
            addresses: segment.addresses_with(vips.first())?,
            further: further.collect::<Result<_>>()?,
        })
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
    pub async fn host_addresses(&self, index: u32) -> Result<Vec<IpAddr>> {
        let marks = self.marks().await?;
        let vips: Vec<_> = marks.iter().flat_map(Marked::vips).collect();
        let all = self.addresses().await?.0.into_iter();
        // Of what another host may have, or has, nobody must be told that it is here.
        let doubtful = AddressFlags::Tentative | AddressFlags::Dadfailed;
        let is_sure = |a: &Address| !a.flags.intersects(doubtful);
        let own = all.filter(|a| a.index == index && !vips.contains(&a.ip) && is_sure(a));
        Ok(own.map(|a| a.ip).collect())
    }

    /// Makes `vip` an address of the interface. It may be one already.
    pub async fn add_address(&self, index: u32, vip: IpAddr) -> Result<()> {
        let length = if vip.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, vip, length).replace();
        if vip.is_ipv6() {
            // Other hosts have it, too, so the kernel must not look for them. And unless its time is
            // over, the kernel would prefer it as source of this host's connections to
            // neighbours, since it is so close to their addresses (RFC 6724 5, rules 3 and 8).
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
            request.message_mut().attributes.extend([
                AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
                AddressAttribute::CacheInfo(lifetime),
            ]);
        }
        request.execute().await.with_context(|| format!("add address {vip}/{length}"))
    }

    /// Removes addresses from whichever interfaces have them; there may be none.
    pub async fn remove_addresses(&self, vips: &BTreeSet<IpAddr>) -> Result<()> {
        for message in self.address_messages().await? {
            let Some(vip) = address_of(&message).filter(|vip| vips.contains(vip)) else { continue };
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

    /// The addresses of all interfaces as they are now.
    pub async fn addresses(&self) -> Result<AddressList> {
        let messages = self.address_messages().await?;
        let address = |message: &AddressMessage| {
            let flags = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Flags(flags) => Some(*flags),
                _ => None,
            });
            let flags = flags.unwrap_or(AddressFlags::empty());
            let (index, prefix) = (message.header.index, message.header.prefix_len);
            Some(Address { index, ip: address_of(message)?, prefix, flags })
        };
        Ok(AddressList(messages.iter().filter_map(address).collect()))
    }

    async fn address_messages(&self) -> Result<Vec<AddressMessage>> {
        let listing = self.handle.address().get().execute();
        listing.try_collect().await.context("list addresses")
    }
}

/// The addresses of all interfaces at one moment.
pub struct AddressList(Vec<Address>);

impl AddressList {
    /// The interfaces that have `vip` as an address.
    pub fn holders(&self, vip: IpAddr) -> impl Iterator<Item = u32> {
        self.0.iter().filter(move |address| address.ip == vip).map(|address| address.index)
    }
}

/// The address that a message is about.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            // The other end if there is a `Local`; IPv6 has this alone as a rule.
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
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
    ip: IpAddr,
    prefix: u8,
    flags: AddressFlags,
}
