//! What connects the hosts: switches that forward group MACs and unknown ones in different ways.
//!
//! A Linux bridge is the switch. What it cannot do by itself is done by nft rules in the switch's
//! or the router's namespace.

use clap::ValueEnum;
use serde::Serialize;

use super::Family;
use crate::io::cluster_mac::MacMode;

/// Name of the bridge that hosts and client are plugged into.
pub const BRIDGE: &str = "br0";
/// Name of the second bridge of a tree.
const SECOND_BRIDGE: &str = "br1";

/// How the segment between the hosts forwards frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// A learning switch: unicast goes to one port, multicast to all.
    Switch,
    /// A hub: every frame goes to every port.
    Hub,
    /// A switch with IGMP and MLD snooping by IP group, as Linux does it, and a querier.
    Snooping,
    /// A switch with IGMP and MLD snooping by MAC, which floods no group MAC that nobody has joined.
    MacSnooping,
    /// A switch that does not flood unicast MACs that it does not know.
    NoUnknownFlood,
    /// Two switches with a cable between them, half of the hosts on each; the client is on the
    /// second.
    Tree,
    /// A switch, and between it and the client a router that refuses an answer with a group MAC to its question for the virtual IP.
    Router,
}

impl Medium {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 7] = [
        Self::Hub,
        Self::Switch,
        Self::Tree,
        Self::Snooping,
        Self::MacSnooping,
        Self::NoUnknownFlood,
        Self::Router,
    ];

    /// Why frames to the cluster's MAC do not get to all hosts; nothing if they do.
    pub fn obstacle(self, mode: MacMode) -> Option<&'static str> {
        match (self, mode) {
            (Self::Hub, _)
            | (Self::Switch | Self::Tree, MacMode::Multicast | MacMode::Igmp | MacMode::Stealth)
            | (Self::Snooping | Self::Router, MacMode::Stealth)
            | (Self::MacSnooping, MacMode::Igmp | MacMode::Stealth)
            | (Self::NoUnknownFlood, MacMode::Multicast | MacMode::Igmp) => None,
            (
                Self::Switch
                | Self::Tree
                | Self::Snooping
                | Self::MacSnooping
                | Self::NoUnknownFlood
                | Self::Router,
                MacMode::Shared,
            ) => Some("the switch learns the MAC, at the port of the host that sent last"),
            (Self::Snooping, MacMode::Multicast | MacMode::Igmp) => Some(
                "the switch forwards by IP group, and the virtual IP is none that can be joined",
            ),
            (Self::MacSnooping, MacMode::Multicast) => {
                Some("the switch floods no group MAC that nobody has joined")
            }
            (Self::NoUnknownFlood, MacMode::Stealth) => Some(
                "the switch never learns the MAC, and floods no unicast MAC that it does not know",
            ),
            (Self::Router, MacMode::Multicast | MacMode::Igmp) => {
                Some("the router refuses a group MAC for the virtual IP")
            }
        }
    }

    /// The commands of `ip` that make the bridge, or bridges.
    pub(super) fn bridges(self) -> String {
        let add = |name: &str, options: &str| {
            format!("link add {name} type bridge stp_state 0 forward_delay 0 {options}\n")
        };
        match self {
            // A bridge that forgets addresses at once never learns a port: a hub.
            Self::Hub => add(BRIDGE, "mcast_snooping 0 ageing_time 0"),
            // Hundredths of a second. Until they are over the bridge floods.
            Self::Snooping => add(BRIDGE, "mcast_snooping 1 mcast_query_response_interval 30"),
            Self::Switch | Self::MacSnooping | Self::NoUnknownFlood | Self::Router => {
                add(BRIDGE, "mcast_snooping 0")
            }
            Self::Tree => {
                [BRIDGE, SECOND_BRIDGE].map(|name| add(name, "mcast_snooping 0")).concat()
            }
        }
    }

    /// The bridge into which a host at `index` of `nodes` is plugged.
    pub(super) fn bridge_of(self, index: usize, nodes: usize) -> &'static str {
        match self {
            Self::Tree if index >= nodes.div_ceil(2) => SECOND_BRIDGE,
            _ => BRIDGE,
        }
    }

    /// The bridge into which the client, or the router before it, is plugged.
    pub(super) fn bridge_of_client(self) -> &'static str {
        match self {
            Self::Tree => SECOND_BRIDGE,
            _ => BRIDGE,
        }
    }

    /// The commands of `ip` that bring the switch up when `ports` are plugged in.
    pub(super) fn start(self, ports: &[String]) -> String {
        let up = format!("link set {BRIDGE} up\nlink set lo up\n");
        match self {
            Self::Switch | Self::Hub | Self::MacSnooping | Self::Router => up,
            // Only now: the other way round it floods for the default of ten seconds.
            Self::Snooping => up + &format!("link set {BRIDGE} type bridge mcast_querier 1\n"),
            Self::NoUnknownFlood => {
                let port = |port: &String| format!("link set {port} type bridge_slave flood off\n");
                up + &ports.iter().map(port).collect::<String>()
            }
            Self::Tree => {
                up + &format!(
                    "link set {SECOND_BRIDGE} up\n\
                     link add trunk0 type veth peer name trunk1\n\
                     link set trunk0 master {BRIDGE} up\n\
                     link set trunk1 master {SECOND_BRIDGE} up\n"
                )
            }
        }
    }

    /// The nft rules of the switch, if it needs some.
    pub(super) fn switch_rules(self, ports: &[String]) -> Option<String> {
        let ports = ports.join(", ");
        // A bridge looks members up by the IP group of a packet, so this one learns from reports (of
        // IGMP version 2 or MLD version 1, which go to the group itself) which MAC is wanted where.
        // Link-local groups of IPv4 are never pruned, and those of all nodes and routers of IPv6
        // (RFC 4541 2.1.2 and 3).
        (self == Self::MacSnooping).then(|| {
            format!(
                "table netdev snooping {{\n\
                 set members {{ typeof meta iifname . ether daddr; size 1024; flags dynamic; }}\n\
                 chain learn {{\n\
                 type filter hook ingress devices = {{ {ports} }} priority 0;\n\
                 ip protocol igmp igmp type membership-report-v2 \
                 update @members {{ iifname . ether daddr }}\n\
                 icmpv6 type mld-listener-report update @members {{ iifname . ether daddr }}\n\
                 }}\n\
                 chain forward {{\n\
                 type filter hook egress devices = {{ {ports} }} priority 0;\n\
                 ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 accept\n\
                 ether daddr ff:ff:ff:ff:ff:ff accept\n\
                 ether daddr & ff:ff:ff:ff:ff:00 == 01:00:5e:00:00:00 accept\n\
                 ether daddr & ff:ff:ff:ff:ff:00 == 33:33:00:00:00:00 accept\n\
                 oifname . ether daddr != @members drop\n\
                 }}\n}}\n"
            )
        })
    }

    /// Sysctls of the switch before it has an interface. Frames that cross it are none of its IP
    /// layer's business, but its queries for members of IPv6 groups need a source address.
    pub(super) fn switch_settings(self, family: Family) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Snooping => family.settings(),
            Self::Switch
            | Self::Hub
            | Self::MacSnooping
            | Self::NoUnknownFlood
            | Self::Tree
            | Self::Router => Family::V4.settings(),
        }
    }

    /// Settings of all that are plugged in, as if the switch had asked for them.
    pub(super) fn member_settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // What the queries of an old querier would make them do (RFC 3376 7.2, RFC 3810 8.2).
            Self::MacSnooping => &[
                ("ipv4/conf/all/force_igmp_version", "2"),
                ("ipv6/conf/default/force_mld_version", "1"),
            ],
            Self::Switch
            | Self::Hub
            | Self::Snooping
            | Self::NoUnknownFlood
            | Self::Tree
            | Self::Router => &[],
        }
    }
}

/// The router's refusal of RFC 1812 3.3.2, and the same for IPv6; Linux itself has no objection to
/// a group MAC. The option with the MAC is behind the 24 bytes of an advertisement (RFC 4861 4.4).
pub(super) const ROUTER_RULES: &str = "table arp refuse {\n\
     chain inbound {\n\
     type filter hook input priority 0;\n\
     arp saddr ether & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop\n\
     }\n}\n\
     table ip6 refuse {\n\
     chain inbound {\n\
     type filter hook input priority 0;\n\
     icmpv6 type nd-neighbor-advert @th,208,8 & 1 == 1 drop\n\
     }\n}\n";
