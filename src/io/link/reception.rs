//! What an interface receives beside its own MAC, which MAC that is, and the marks of daemons.

use std::fmt::Display;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, Prop};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use pnet::util::MacAddr;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::ErrorMessage;

use super::{Link, Links, canonical_name, mac_of};
use crate::failure::Failure;
use crate::io::mark::{FurtherMark, Mark};

/// An interface with a mark.
#[derive(Debug)]
pub struct Marked {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub interface: String,
    /// The MAC that the interface has now.
    pub mac: MacAddr,
    /// What a daemon does, or did, to it.
    pub mark: Mark,
    /// The further virtual IPs that the same daemon gives, or gave, to it.
    pub further: Vec<IpAddr>,
}

impl Marked {
    /// All virtual IPs of the daemon, the first one first.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.mark.vip).chain(self.further.iter().copied())
    }
}

impl Links {
    /// The marks on all interfaces of this network namespace.
    pub async fn marks(&self) -> Result<Vec<Marked>> {
        let mut links = self.handle.link().get().execute();
        let mut all = Vec::new();
        while let Some(link) = links.next().await {
            let link = link.context("list the interfaces")?;
            let (Some(interface), Some(mac)) = (canonical_name(&link), mac_of(&link)) else {
                continue;
            };
            let index = link.header.index;
            let marked = |mark: Mark| {
                let further = names_of(&link).filter_map(|name| name.parse::<FurtherMark>().ok());
                let further = further.filter(|further| further.first == mark.vip);
                let further = further.map(|further| further.vip).collect();
                Marked { index, interface: interface.clone(), mac, mark, further }
            };
            all.extend(marks_of(&link).map(marked));
        }
        Ok(all)
    }

    /// Puts a mark, or that of a further virtual IP, on an interface. It may be there already.
    pub async fn mark(&self, index: u32, mark: &impl Display) -> Result<()> {
        let name = mark.to_string();
        let request = self.handle.link().property_add(index).alt_ifname(&[&name]);
        unless(libc::EEXIST, request.execute().await)
            .with_context(|| format!("give the interface the name {name}"))
    }

    /// Takes a mark from an interface. It may be gone already.
    pub async fn unmark(&self, index: u32, mark: &impl Display) -> Result<()> {
        let name = mark.to_string();
        let request = self.handle.link().property_del(index).alt_ifname(&[&name]);
        unless(libc::ENOENT, request.execute().await)
            .with_context(|| format!("take the name {name} from the interface"))
    }

    /// Lets the interface receive frames to a second unicast MAC, beyond the end of
    /// this process. It may already. A driver without a filter for it makes the interface promiscuous.
    pub async fn receive(&self, interface: &str, index: u32, mac: MacAddr) -> Result<()> {
        let bytes = mac.octets();
        let request = self.handle.neighbours().add_bridge(index, &bytes);
        let request = request.flags(NeighbourFlags::Own);
        match unless(libc::EEXIST, request.execute().await) {
            Err(rtnetlink::Error::NetlinkError(error))
                if matches!(-error.raw_code(), libc::EOPNOTSUPP | libc::EINVAL) =>
            {
                // A macvlan, for one, gets frames to its own MAC only (`macvlan_fdb_add`).
                Err(Failure::unavailable(&format!(
                    "{interface} cannot receive frames to a second unicast MAC ({error}); choose the \
                     interface below it, or --mac multicast or igmp"
                )))
            }
            outcome => outcome.with_context(|| format!("let {interface} receive frames to {mac}")),
        }
    }

    /// Takes back what [`Links::receive`] did. It may be gone already.
    pub async fn receive_no_more(&self, index: u32, mac: MacAddr) -> Result<()> {
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Bridge;
        entry.header.ifindex = index;
        entry.header.state = NeighbourState::Permanent;
        entry.header.flags = NeighbourFlags::Own;
        entry.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
        let outcome = self.handle.neighbours().del(entry).execute().await;
        // The same answer as to the request that failed before, see `receive`.
        let outcome = unless(libc::EOPNOTSUPP, unless(libc::EINVAL, outcome));
        unless(libc::ENOENT, outcome).with_context(|| format!("stop receiving frames to {mac}"))
    }

    /// Gives the interface another MAC.
    pub async fn set_mac(&self, interface: &str, index: u32, mac: MacAddr) -> Result<()> {
        let change = LinkUnspec::new_with_index(index).address(mac.octets().to_vec()).build();
        match self.handle.link().change(change).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if -error.raw_code() == libc::EBUSY => {
                Err(Failure::unavailable(&format!(
                    "the driver of {interface} changes its MAC only while it is down; use --mac stealth"
                )))
            }
            outcome => outcome.with_context(|| format!("give {interface} the MAC {mac}")),
        }
    }
}

/// Fails if IPv6 drops what comes to one host in frames to many, and there is an IPv6 virtual IP. For
/// IPv4 the same setting is no obstacle, since that looks after the rules have changed the packet type;
/// `ip6_rcv_core` looks before any rule.
pub fn require_packets_in_group_frames(link: &Link) -> Result<()> {
    let name = &link.name;
    let setting = format!("/proc/sys/net/ipv6/conf/{name}/drop_unicast_in_l2_multicast");
    let has_v6 = link.all().any(|addresses| addresses.vip().is_ipv6());
    match fs::read_to_string(setting) {
        Ok(value) if has_v6 && value.trim() != "0" => Err(Failure::config(&format!(
            "the kernel drops IPv6 packets in frames to a group MAC; let it take them (sysctl \
                 net.ipv6.conf.{name}.drop_unicast_in_l2_multicast=0), or use --mac stealth"
        ))),
        _ => Ok(()),
    }
}

/// The marks on an interface.
pub(super) fn marks_of(link: &LinkMessage) -> impl Iterator<Item = Mark> {
    names_of(link).filter_map(|name| name.parse().ok())
}

fn names_of(link: &LinkMessage) -> impl Iterator<Item = &str> {
    let properties = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::PropList(properties) => Some(properties),
        _ => None,
    });
    properties.flatten().filter_map(|property| match property {
        Prop::AltIfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// Takes this error of the kernel for success.
fn unless(errno: i32, outcome: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match outcome {
        Err(rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }))
            if code.get() == -errno =>
        {
            Ok(())
        }
        outcome => outcome,
    }
}
