//! This host's own address on an interface, beside each virtual IP; and whether the segment can have
//! that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use clusterd::protocol::Vips;
use futures_util::StreamExt;
use netlink_packet_route::address::AddressFlags;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::{Address, Addresses, Links};
use crate::failure::Failure;

/// What is known of the segment behind an interface.
pub(super) struct Segment<'a> {
    /// The name of the interface.
    name: &'a str,
    /// This host's addresses there.
    addresses: Vec<Address>,
    /// The IPv6 prefixes on the link, with their lengths; not looked for without an IPv6 virtual IP.
    prefixes: Vec<(Ipv6Addr, u8)>,
}

impl Links {
    /// Looks at the segment of which these are to be virtual IPs.
    pub(super) async fn segment<'a>(
        &self,
        name: &'a str,
        index: u32,
        vips: &Vips,
    ) -> Result<Segment<'a>> {
        let here = |address: &Address| address.index == index;
        let addresses = self.addresses().await?.0.into_iter().filter(here).collect();
        let prefixes = match vips.all().any(|vip| vip.is_ipv6()) {
            true => self.prefixes(index).await?,
            false => Vec::new(),
        };
        Ok(Segment { name, addresses, prefixes })
    }

    /// Whether the kernel has an IPv6 address to speak from to hosts beyond the link. Virtual IPs are
    /// none: they are marked as deprecated, and it takes one of them only if there is no other (RFC 6724 5).
    pub async fn has_preferred_ipv6(&self) -> Result<bool> {
        let unfit = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
        Ok(self.addresses().await?.0.iter().any(|address| match address.ip {
            IpAddr::V4(_) => false,
            IpAddr::V6(ip) => {
                !ip.is_loopback() && !ip.is_unicast_link_local() && !address.flags.intersects(unfit)
            }
        }))
    }

    /// Which IPv6 addresses neighbours take for a neighbour's. That is said by routes: the addresses
    /// of a host may have another prefix (RFC 5942), those by DHCPv6 have none.
    async fn prefixes(&self, index: u32) -> Result<Vec<(Ipv6Addr, u8)>> {
        let request = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut listing = self.handle.route().get(request).execute();
        let mut prefixes = Vec::new();
        while let Some(route) = listing.next().await {
            let route = route.context("list the routes")?;
            let mut destination = None;
            let (mut here, mut direct) = (false, true);
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = Some(*ip),
                    RouteAttribute::Oif(of) => here = *of == index,
                    RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => direct = false,
                    _ => {}
                }
            }
            let RouteHeader { table, kind, destination_prefix_length: length, .. } = route.header;
            let is_prefix = table == RouteHeader::RT_TABLE_MAIN
                && kind == RouteType::Unicast
                && length < 128
                && here
                && direct;
            if let (true, Some(prefix)) = (is_prefix, destination)
                && !prefix.is_unicast_link_local()
            {
                prefixes.push((prefix, length));
            }
        }
        Ok(prefixes)
    }
}

impl Segment<'_> {
    /// The address from which this host speaks for `vip`. Fails if the segment cannot have that.
    pub fn addresses_with(&self, vip: IpAddr) -> Result<Addresses> {
        let Self { name, addresses, .. } = self;
        if vip.is_loopback() || vip.is_unspecified() || vip.is_multicast() || is_special(vip) {
            return Err(Failure::config(&format!(
                "{vip} is not the unicast address of a host; choose another one"
            )));
        }
        match vip {
            IpAddr::V4(vip) => Ok(Addresses::V4 { own: own_ipv4(name, addresses, vip)?, vip }),
            IpAddr::V6(vip) => {
                self.require_on_link(vip)?;
                Ok(Addresses::V6 { own: link_local(name, addresses)?, vip })
            }
        }
    }

    /// Fails unless neighbours take `vip` for a neighbour.
    fn require_on_link(&self, vip: Ipv6Addr) -> Result<()> {
        let Self { name, prefixes, .. } = self;
        let host_part = |&(prefix, length): &(Ipv6Addr, u8)| {
            let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            ((u128::from(prefix) ^ u128::from(vip)) & !host == 0).then_some(u128::from(vip) & host)
        };
        let Some((prefix, length, host)) =
            prefixes.iter().find_map(|prefix| Some((prefix.0, prefix.1, host_part(prefix)?)))
        else {
            let all = prefixes.iter().map(|(prefix, length)| format!("{prefix}/{length}"));
            let all = all.collect::<Vec<_>>().join(", ");
            return Err(Failure::config(&format!(
                "{vip} is in no prefix of {name} ({}): choose an unused address of a prefix that is on \
                 this link, or add one: ip address add ADDRESS/64 dev {name}",
                if all.is_empty() { "it has no global one" } else { &all }
            )));
        };
        if length < 127 && host == 0 {
            return Err(Failure::config(&format!(
                "{vip} is the routers' anycast address of {prefix}/{length} (RFC 4291 2.6.1); \
                 choose another one"
            )));
        }
        Ok(())
    }
}

/// Has an IPv6 address a meaning of its own: link-local, which clients would have to name with an
/// interface, or an IPv4 address in disguise?
fn is_special(vip: IpAddr) -> bool {
    match vip {
        IpAddr::V4(_) => false,
        IpAddr::V6(vip) => vip.is_unicast_link_local() || vip.to_ipv4_mapped().is_some(),
    }
}

fn own_ipv4(name: &str, addresses: &[Address], vip: Ipv4Addr) -> Result<Ipv4Addr> {
    let addresses = addresses.iter().filter_map(|address| match address.ip {
        IpAddr::V4(ip) => Some((ip, address.prefix)),
        IpAddr::V6(_) => None,
    });
    let addresses: Vec<_> = addresses.collect();
    let subnet = |prefix: u8| u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    let found = addresses.iter().find(|(ip, prefix)| {
        *prefix < 32 && (u32::from(*ip) ^ u32::from(vip)) & subnet(*prefix) == 0
    });
    let Some(&(own, prefix)) = found else {
        let has = addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}"));
        let has = has.collect::<Vec<_>>().join(", ");
        return Err(Failure::config(&format!(
            "{vip} is in no subnet of {name} ({}): choose an unused address of a subnet that \
             this host has an address in, or add one: ip address add ADDRESS/LEN dev {name}",
            if has.is_empty() { "it has no IPv4 address" } else { &has }
        )));
    };
    let host_part = u32::from(vip) & !subnet(prefix);
    if own == vip {
        return Err(Failure::config(&format!(
            "{vip} is this host's own address on {name}; the virtual IP must be another one"
        )));
    }
    if prefix < 31 && (host_part == 0 || host_part == !subnet(prefix)) {
        return Err(Failure::config(&format!(
            "{vip} is the network or broadcast address of {own}/{prefix}; choose another one"
        )));
    }
    Ok(own)
}

fn link_local(name: &str, addresses: &[Address]) -> Result<Ipv6Addr> {
    let mut unfit = None;
    for Address { ip, flags, .. } in addresses {
        let IpAddr::V6(ip) = ip else { continue };
        if !ip.is_unicast_link_local() {
            continue;
        }
        if flags.contains(AddressFlags::Dadfailed) {
            unfit =
                Some(format!("{ip} of {name} is in use by another host, too; give it another one"));
        } else if flags.contains(AddressFlags::Tentative) {
            unfit = Some(format!(
                "{ip} of {name} is still being looked for on other hosts (tentative); \
                 try again in a second or two"
            ));
        } else {
            return Ok(*ip);
        }
    }
    Err(Failure::unavailable(&unfit.unwrap_or_else(|| {
        format!(
            "{name} has no link-local IPv6 address, from which hosts speak to each other: \
             is IPv6 off (sysctl net.ipv6.conf.{name}.disable_ipv6), or are there to be none \
             (addrgenmode none)? Add one: ip address add fe80::HOST/64 dev {name}"
        )
    })))
}
