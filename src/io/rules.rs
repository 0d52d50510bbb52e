//! The nft ruleset of one cluster, as text (spec 9 says what each rule is for).
//!
//! Nothing here touches the kernel, so that `clusterd rules` can print the
//! rules without privileges. Everything lies in tables of our own, one in
//! family `inet`, for IPv4 one in family `arp`, in mode `stealth` one in family `netdev`, named
//! after the first virtual IP. Several virtual IPs of one family are a set, so that the number of
//! rules that a packet meets does not depend on theirs; each family has chains of its own.

mod chains;
mod family;
mod part;
mod scope;

use std::fmt::Write as _;
use std::net::IpAddr;

use clap::ValueEnum;
use clusterd::bucket::Bucket;
use clusterd::flow::ClusterKey;
use clusterd::protocol::PEERS_MAX;
use clusterd::wire::PORTS_MAX;

pub use self::family::Family;
use self::family::Words;
use self::part::Part;
pub use self::scope::Scope;
use super::cluster_mac::MacMode;
use super::link::{Addresses, Link};
use super::vip_name;

/// Connection tracking label of flows whose client has chosen this host.
///
/// A label and not a mark: nothing else looks at it, and other rules that set
/// or compare whole marks neither break it nor see it. That it is not there is
/// written `ct label ! 100`: `!=` would compare all labels of the flow at once.
const CONFIRMED_LABEL: u8 = 100;

/// Connection tracking label of flows that the kernel accepted by their bucket.
const BUCKET_LABEL: u8 = 101;

/// The set of this host's own buckets; empty until the daemon fills it.
pub const OWN_BUCKETS: &str = "own_buckets";

/// The set of the IP protocols whose new flows the kernel divides by bucket,
/// without the daemon (overload form, spec 9); empty until the daemon fills it.
pub const BY_BUCKET: &str = "by_bucket";

/// The set of TCP ports, by virtual IP, that are not divided, because not every host serves them.
/// Like all sets with addresses there is one of each [`Family`].
pub const UNDIVIDED: &str = "undivided";

/// Room in [`UNDIVIDED`], of each family: as many as this host and its peers can announce, ports of
/// the first virtual IP and ports of all others. So there are never more.
const UNDIVIDED_MAX: usize = (1 + PEERS_MAX) * 2 * PORTS_MAX;

/// The set of virtual IPs that no buckets divide, since not every host has them, and of which this
/// host answers all that the kernel decides.
pub const WHOLE: &str = "whole";

/// The same of which another host answers that.
pub const LEFT: &str = "left";

/// The set of the virtual IPs of a family with further ones.
pub const VIPS: &str = "vips";

/// The set of ports in scope.
const SCOPE: &str = "scope";

/// The set of UDP ports on which this host has answered clients: what leaves from these in a flow
/// that is not tracked is a late answer, and goes to the daemon.
pub const ANSWERING: &str = "answering";

/// Room in [`ANSWERING`].
pub const ANSWERING_MAX: usize = 1_024;

/// The set of IP protocols that the kernel may let through to this host by
/// itself: UDP and ICMP while the daemon lives, which says so again and again.
pub const LEASED: &str = "leased";

/// The set of flows of datagrams that other hosts serve, as client address,
/// client port, virtual IP and service port.
pub const FOREIGN_FLOWS: &str = "foreign_udp";

/// Room in [`FOREIGN_FLOWS`]; datagrams of further flows go to the daemon each time.
pub const FOREIGN_FLOWS_MAX: usize = 65_536;

/// The counter of SYNs that were divided by bucket, own and foreign.
pub const DIVIDED: &str = "divided";

/// A SYN that opens a connection.
const SYN: &str = "tcp flags & (fin|syn|rst|ack) == syn";

/// Messages of neighbour discovery (RFC 4861 4) that have a source of their own.
const NDP: &str = "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, \
                   nd-neighbor-advert, nd-redirect }";

/// Bytes of a logged packet: IP and TCP headers with options fit.
const LOG_SNAPLEN: u8 = 80;

/// Which packets of the other hosts' connections may reach this host's TCP,
/// and which of its answers may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guard {
    /// A RST without ACK leaves only if connection tracking calls the flow ASSURED.
    Rst,
    /// The client's first ACK must acknowledge this host's own sequence number.
    Strict,
}

/// How a held packet gets to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueBackend {
    /// The nft expression `queue`.
    Nft,
    /// The xtables target `NFQUEUE`, inserted into our own chains by the daemon.
    Xtables,
}

/// Everything the ruleset depends on.
#[derive(Clone, Debug)]
pub struct Ruleset {
    /// Interface on which the cluster lives, with the virtual IPs.
    pub link: Link,
    /// What kind of MAC they resolve to.
    pub mac: MacMode,
    /// Form of the handshake guard.
    pub guard: Guard,
    /// The ports on which the cluster is spoken to; `None` for all.
    pub scope: Option<Scope>,
    /// Queue number of new attempts; the next one is for flows that the kernel
    /// already tracks. The log group has the same number.
    pub queue: u16,
    /// Form of the queueing rules.
    pub backend: QueueBackend,
}

/// The chains whose first rule hands packets to a queue, with that queue's
/// offset to [`Ruleset::queue`].
pub const QUEUE_CHAINS: [(&str, u16); 2] = [("contest", 0), ("incumbent", 1)];

/// Name of all tables of the cluster that this virtual IP names.
pub fn table_name(vip: IpAddr) -> String {
    format!("clusterd_{}", vip_name::spell(vip))
}

/// The virtual IP that a table of ours is named after.
pub fn vip_of_table(name: &str) -> Option<IpAddr> {
    vip_name::read(name.strip_prefix("clusterd_")?)
}

/// The commands that remove the tables of a virtual IP in these families, present or not.
pub fn remove(vip: IpAddr, families: &[impl AsRef<str>]) -> String {
    let name = table_name(vip);
    let commands = families.iter().map(|family| {
        let family = family.as_ref();
        format!("add table {family} {name}\ndelete table {family} {name}\n")
    });
    commands.collect()
}

impl Ruleset {
    /// The families of nft in which it has a table.
    pub fn families(&self) -> Vec<&'static str> {
        let has_arp = self.link.all().any(|addresses| addresses.vip().is_ipv4());
        let has_netdev = match self.mac {
            MacMode::Stealth => true,
            MacMode::Multicast | MacMode::Igmp | MacMode::Shared => false,
        };
        let optional = [("arp", has_arp), ("netdev", has_netdev)];
        let optional = optional.into_iter().filter_map(|(family, has)| has.then_some(family));
        std::iter::once("inet").chain(optional).collect()
    }

    /// The first virtual IP.
    pub fn vip(&self) -> IpAddr {
        self.link.addresses.vip()
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        let part = |family| {
            let is_in = |addresses: &Addresses| Family::of(addresses.vip()) == family;
            Part {
                family,
                addresses: self.link.all().filter(is_in).collect(),
                has_further: self.link.further.iter().any(is_in),
            }
        };
        Family::ALL.into_iter().map(part).filter(|part| !part.addresses.is_empty())
    }

    /// The commands that install the tables, replacing earlier ones of the
    /// same name in one transaction.
    pub fn install(&self) -> String {
        let mut text = remove(self.vip(), &self.families());
        self.tables(&mut text).expect("writing to a string cannot fail");
        text
    }

    fn tables(&self, text: &mut String) -> std::fmt::Result {
        let name = table_name(self.vip());
        self.inet_table(text, &name)?;
        for part in self.parts() {
            match part.family {
                Family::V4 => part.arp_table(text, &name)?,
                // Its neighbour discovery is in family `inet` like everything else.
                Family::V6 => {}
            }
        }
        match self.mac {
            MacMode::Stealth => self.netdev_table(text, &name),
            MacMode::Multicast | MacMode::Igmp | MacMode::Shared => Ok(()),
        }
    }

    fn inet_table(&self, text: &mut String, name: &str) -> std::fmt::Result {
        writeln!(text, "table inet {name} {{")?;
        writeln!(text, "  counter {DIVIDED} {{ }}")?;
        // The type of a number below 256. (nft 1.0.6 crashes when it lists `typeof jhash`.)
        writeln!(text, "  set {OWN_BUCKETS} {{ typeof numgen inc mod 256; size 256; }}")?;
        writeln!(text, "  set {BY_BUCKET} {{ type inet_proto; size 4; }}")?;
        writeln!(text, "  set {ANSWERING} {{ type inet_service; size {ANSWERING_MAX}; }}")?;
        // Three at a time. The kernel counts those whose time is over until it has collected them.
        writeln!(text, "  set {LEASED} {{ type inet_proto; flags timeout; size 32; }}")?;
        if let Some(scope) = &self.scope {
            writeln!(
                text,
                "  set {SCOPE} {{ type inet_proto . inet_service; elements = {{ {} }}; }}",
                scope.elements()
            )?;
        }
        for (chain, offset) in QUEUE_CHAINS {
            writeln!(text, "  chain {chain} {{")?;
            match self.backend {
                QueueBackend::Nft => writeln!(text, "    queue num {}", self.queue + offset)?,
                // The daemon inserts `-j NFQUEUE` before this rule.
                QueueBackend::Xtables => {}
            }
            writeln!(text, "    drop\n  }}")?;
        }
        match self.mac {
            MacMode::Shared => self.others(text)?,
            MacMode::Multicast | MacMode::Igmp | MacMode::Stealth => {}
        }
        for part in self.parts() {
            part.sets(text)?;
            self.divide(text, &part)?;
            self.datagrams(text, &part)?;
            self.inbound(text, &part)?;
            self.local(text, &part)?;
            self.answers(text, &part)?;
            self.outbound(text, &part)?;
            self.forwarded(text, &part)?;
        }
        writeln!(text, "}}")
    }

    /// What is sent to the other hosts' own addresses comes in here as well, since all have one
    /// MAC; hosts that forward would send it to each other until its TTL is used up.
    fn others(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "  chain others {{")?;
        writeln!(text, "    type filter hook prerouting priority raw; policy accept;")?;
        writeln!(
            text,
            "    iifname \"{}\" meta pkttype host fib daddr type unicast drop",
            self.link.name
        )?;
        writeln!(text, "  }}")
    }

    /// Datagrams to the virtual IPs, and what a service of this host says in flows of others.
    fn datagrams(&self, text: &mut String, part: &Part) -> std::fmt::Result {
        let Words { ip, .. } = part.family.words();
        let foreign = part.family.name(FOREIGN_FLOWS);
        writeln!(text, "  chain {} {{", part.family.name("datagrams"))?;
        // In flows that this host has opened: answers to its own questions, and what a client
        // says to a port from which a service has gone on with it (RFC 1350).
        writeln!(text, "    ct direction reply accept")?;
        writeln!(text, "    {ip} saddr . udp sport . {ip} daddr . udp dport @{foreign} drop")?;
        let divided = format!("meta l4proto @{BY_BUCKET}");
        self.by_bucket(text, part, &divided, "udp sport")?;
        writeln!(text, "    {divided} drop")?;
        // Expected by a helper of connection tracking in a flow of this host.
        writeln!(text, "    ct state related accept")?;
        // The first datagram that is let through confirms the entry of its flow, before any
        // answer makes it established.
        writeln!(text, "    ct status confirmed meta l4proto @{LEASED} accept")?;
        writeln!(text, "    goto contest\n  }}")?;
        // Before connection tracking: it would take the flow for one that this host has opened.
        writeln!(text, "  chain {} {{", part.family.name("unheard"))?;
        writeln!(text, "    type filter hook output priority raw; policy accept;")?;
        writeln!(
            text,
            "    {ip} saddr {} udp sport @{ANSWERING} \
             {ip} daddr . udp dport . {ip} saddr . udp sport @{foreign} drop\n  }}",
            part.vips()
        )
    }

    /// Accepts this host's share of what the kernel decides about: of a virtual IP that some hosts
    /// lack all or nothing, else its own buckets, while the daemon lives.
    fn by_bucket(
        &self,
        text: &mut String,
        part: &Part,
        what: &str,
        client_port: &str,
    ) -> std::fmt::Result {
        let Words { ip, .. } = part.family.words();
        let leased = format!("meta l4proto @{LEASED} accept");
        let mut divided = String::new();
        if part.has_further {
            writeln!(text, "    {what} {ip} daddr @{} {leased}", part.family.name(WHOLE))?;
            divided = format!("{ip} daddr != @{} ", part.family.name(LEFT));
        }
        let bucket = self.bucket(part, client_port);
        writeln!(text, "    {what} {divided}{bucket} @{OWN_BUCKETS} {leased}")
    }

    /// The expression for the bucket of a client, whose port is in `field`.
    fn bucket(&self, part: &Part, field: &str) -> String {
        let Words { ip, .. } = part.family.words();
        let seed = ClusterKey::public(self.vip()).bucket_seed();
        format!("jhash {ip} saddr . {field} mod {} seed {seed:#x}", Bucket::COUNT)
    }

    /// A frame to a unicast MAC that is not the interface's own is dropped by `ip_rcv` as somebody
    /// else's, before any other hook. What else comes to that MAC stays somebody else's.
    fn netdev_table(&self, text: &mut String, name: &str) -> std::fmt::Result {
        writeln!(text, "table netdev {name} {{")?;
        for part in self.parts() {
            part.vips_set(text)?;
        }
        writeln!(text, "  chain inbound {{")?;
        writeln!(
            text,
            "    type filter hook ingress device \"{}\" priority filter; policy accept;",
            self.link.name
        )?;
        for part in self.parts() {
            let Words { ip, .. } = part.family.words();
            writeln!(
                text,
                "    ether daddr {} {ip} daddr {} meta pkttype set host",
                self.mac.address(self.vip()),
                part.vips()
            )?;
        }
        writeln!(text, "  }}\n}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_name_leads_back_to_its_address() {
        for vip in ["10.0.0.2", "2001:db8::2"] {
            let vip = vip.parse().unwrap();
            assert_eq!(vip_of_table(&table_name(vip)), Some(vip));
        }
        assert_eq!(vip_of_table("clusterd_x"), None);
        assert_eq!(vip_of_table("filter"), None);
    }
}
