//! Which way packets go to an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkLayerType;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteType};
use pnet::util::MacAddr;
use rtnetlink::RouteMessageBuilder;

use super::{Links, canonical_name};
use crate::failure::Failure;

/// The way to an address, as the kernel would choose it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name of the interface.
    pub interface: String,
    /// Whether frames on it have Ethernet headers.
    pub is_ethernet: bool,
    /// The next hop, if the address is not on the link itself.
    pub gateway: Option<IpAddr>,
    /// The address that packets go from.
    pub source: IpAddr,
    /// Whether the address is one of this host's own.
    pub is_local: bool,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the interface.
    pub index: u32,
    /// The next hop, if there is one.
    pub gateway: Option<IpAddr>,
    /// Length of the destination's prefix; 0 for the default route.
    pub prefix: u8,
    /// Of several to one destination the kernel takes that with the lowest.
    pub metric: u32,
}

impl Links {
    /// Asks the kernel for the way to `target`, by `interface` if one is given.
    pub async fn route(&self, target: IpAddr, interface: Option<&str>) -> Result<Route> {
        let mut question = RouteMessageBuilder::<IpAddr>::new();
        if let Some(name) = interface {
            question = question.output_interface(self.index_of(name).await?);
        }
        let bits = if target.is_ipv4() { 32 } else { 128 };
        let question = question.destination_prefix(target, bits)?.build();
        let answer = self.handle.route().get(question).execute().next().await;
        let answer = match answer {
            Some(Ok(answer)) => answer,
            None => return Err(Failure::config(&format!("there is no route to {target}"))),
            Some(Err(error)) => {
                return Err(Failure::config(&format!("there is no route to {target} ({error})")));
            }
        };
        let (mut index, mut gateway, mut source) = (None, None, None);
        for attribute in &answer.attributes {
            match attribute {
                RouteAttribute::Oif(oif) => index = Some(*oif),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::PrefSource(address) => source = ip(address),
                _ => {}
            }
        }
        let index = index.with_context(|| format!("the route to {target} has no interface"))?;
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await.context("look for the interface of the route")?;
        let link = link.with_context(|| format!("there is no interface {index}"))?;
        Ok(Route {
            interface: canonical_name(&link).context("the interface has no name")?,
            is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
            gateway,
            source: source.with_context(|| format!("the route to {target} has no source"))?,
            is_local: answer.header.kind == RouteType::Local,
        })
    }

    /// All unicast routes of the family of `address`, each way of one with several.
    pub async fn routes(&self, address: IpAddr) -> Result<Vec<Hop>> {
        let question = match address {
            IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let mut listing = self.handle.route().get(question).execute();
        let mut routes = Vec::new();
        while let Some(route) = listing.next().await {
            let route = route.context("list the routes")?;
            if route.header.kind != RouteType::Unicast {
                continue;
            }
            let prefix = route.header.destination_prefix_length;
            let (mut only, mut gateway, mut metric, mut several) = (None, None, 0, &[][..]);
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Oif(oif) => only = Some(*oif),
                    RouteAttribute::Gateway(address) => gateway = ip(address),
                    RouteAttribute::Priority(priority) => metric = *priority,
                    RouteAttribute::MultiPath(hops) => several = hops,
                    _ => {}
                }
            }
            routes.extend(only.map(|index| Hop { index, gateway, prefix, metric }));
            for hop in several {
                let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(address) => ip(address),
                    _ => None,
                });
                routes.push(Hop { index: hop.interface_index, gateway, prefix, metric });
            }
        }
        Ok(routes)
    }

    /// What this host believes to be the MAC of `address` on an interface, and whether somebody has
    /// said so by hand.
    pub async fn neighbour(&self, index: u32, address: IpAddr) -> Result<Option<(MacAddr, bool)>> {
        let family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        let neighbours = self.handle.neighbours().get().set_address_family(family);
        let mut listing = neighbours.execute();
        let mut found = None;
        while let Some(entry) = listing.next().await {
            let entry = entry.context("list the neighbours")?;
            let is_it = entry.header.ifindex == index
                && entry
                    .attributes
                    .iter()
                    .any(|attribute| *attribute == NeighbourAttribute::Destination(address.into()));
            let mac = entry.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(&mac[..]).ok(),
                _ => None,
            });
            if let Some(mac) = mac.filter(|_| is_it) {
                let is_static = entry.header.state == NeighbourState::Permanent;
                found = Some((MacAddr::from(mac), is_static));
            }
        }
        Ok(found)
    }

    async fn index_of(&self, name: &str) -> Result<u32> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        match links.next().await {
            Some(Ok(link)) => Ok(link.header.index),
            None | Some(Err(_)) => {
                Err(Failure::unavailable(&format!("there is no interface {name} here")))
            }
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
