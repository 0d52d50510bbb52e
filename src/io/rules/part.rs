//! What the rules say of the virtual IPs of one family: their sets, and what only that family has.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use clusterd::wire::VIPS_MAX;

use super::family::{Family, Words};
use super::{
    BY_BUCKET, FOREIGN_FLOWS, FOREIGN_FLOWS_MAX, LEFT, UNDIVIDED, UNDIVIDED_MAX, VIPS, WHOLE,
};
use crate::io::link::Addresses;

/// The virtual IPs of one family.
pub(super) struct Part {
    pub(super) family: Family,
    pub(super) addresses: Vec<Addresses>,
    /// Hosts of the cluster may lack some of them.
    pub(super) has_further: bool,
}

impl Part {
    /// The virtual IPs as a rule names them.
    pub(super) fn vips(&self) -> String {
        match self.addresses[..] {
            [first] if !self.has_further => first.vip().to_string(),
            _ => format!("@{}", self.family.name(VIPS)),
        }
    }

    /// The set behind [`Part::vips`], if there is one.
    pub(super) fn vips_set(&self, text: &mut String) -> std::fmt::Result {
        if !self.has_further {
            return Ok(());
        }
        let vips: Vec<_> = self.addresses.iter().map(|it| it.vip().to_string()).collect();
        writeln!(
            text,
            "  set {} {{ type {}; elements = {{ {} }}; }}",
            self.family.name(VIPS),
            self.family.words().address,
            vips.join(", ")
        )
    }

    pub(super) fn sets(&self, text: &mut String) -> std::fmt::Result {
        let Words { address, .. } = self.family.words();
        let name = |what| self.family.name(what);
        self.vips_set(text)?;
        writeln!(
            text,
            "  set {} {{ type {address} . inet_service; size {UNDIVIDED_MAX}; }}",
            name(UNDIVIDED)
        )?;
        for set in [WHOLE, LEFT] {
            writeln!(text, "  set {} {{ type {address}; size {}; }}", name(set), 1 + VIPS_MAX)?;
        }
        writeln!(
            text,
            "  set {} {{ type {address} . inet_service . {address} . inet_service; \
             flags timeout; size {FOREIGN_FLOWS_MAX}; }}",
            name(FOREIGN_FLOWS)
        )
    }

    /// The conditions under which the kernel divides attempts, whose virtual IP and port are in
    /// these fields.
    pub(super) fn divided(&self, address: &str, port: &str) -> String {
        let Words { ip, .. } = self.family.words();
        let undivided = self.family.name(UNDIVIDED);
        let mut text =
            format!("meta l4proto @{BY_BUCKET} {ip} {address} . tcp {port} != @{undivided}");
        if self.has_further {
            for set in [WHOLE, LEFT] {
                text += &format!(" {ip} {address} != @{}", self.family.name(set));
            }
        }
        text
    }

    /// This host's address for IPv6, which is the same for all virtual IPs.
    pub(super) fn by_own_v6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|addresses| match *addresses {
            Addresses::V4 { .. } => None,
            Addresses::V6 { own, .. } => Some(own),
        })
    }

    /// An advertisement of a virtual IP by whomever. The nft that Debian 12 has does not know the
    /// target (RFC 4861 4.4) by name.
    pub(super) fn advertisement(&self) -> String {
        let targets = self.addresses.iter().filter_map(|addresses| match addresses {
            Addresses::V4 { .. } => None,
            Addresses::V6 { vip, .. } => Some(format!("{:#034x}", u128::from(*vip))),
        });
        format!("icmpv6 type nd-neighbor-advert @th,64,128 {}", any_of(targets))
    }

    /// The kernel must not reveal this host's own MAC for a virtual IP: the daemon answers requests
    /// for it, and the kernel's own requests carry the host's own address as sender.
    pub(super) fn arp_table(&self, text: &mut String, name: &str) -> std::fmt::Result {
        // Virtual IPs may be of several subnets.
        let mut by_own: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>> = BTreeMap::new();
        for addresses in &self.addresses {
            match *addresses {
                Addresses::V4 { own, vip } => by_own.entry(own).or_default().push(vip),
                Addresses::V6 { .. } => {}
            }
        }
        writeln!(text, "table arp {name} {{")?;
        self.vips_set(text)?;
        writeln!(text, "  chain outbound {{")?;
        writeln!(text, "    type filter hook output priority filter; policy accept;")?;
        writeln!(text, "    arp operation reply arp saddr ip {} drop", self.vips())?;
        for (own, vips) in by_own {
            writeln!(
                text,
                "    arp operation request arp saddr ip {} arp saddr ip set {own}",
                any_of(vips)
            )?;
        }
        writeln!(text, "  }}\n}}")
    }
}

/// An anonymous set, or its only element.
fn any_of(elements: impl IntoIterator<Item = impl Display>) -> String {
    let elements: Vec<_> = elements.into_iter().map(|element| element.to_string()).collect();
    match &elements[..] {
        [one] => one.clone(),
        several => format!("{{ {} }}", several.join(", ")),
    }
}
