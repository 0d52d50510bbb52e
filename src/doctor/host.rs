//! What of this host's own settings may be in the way.

use std::fs;
use std::net::IpAddr;

use anyhow::Result;
use pnet::util::MacAddr;

use super::finding::{Culprit, Finding};
use super::firewall::{Effect, Hit, Traffic, examine};
use crate::control;
use crate::io::cluster_mac::MacMode;
use crate::io::link::{Condition, Link, Links};
use crate::io::listeners;
use crate::io::nft;

/// Share of connection tracking's table that may be taken.
const CONNTRACK_FULL_PERCENT: u64 = 90;

/// The facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The interface's name.
    pub interface: String,
    /// The virtual IP.
    pub vip: IpAddr,
    /// The state of the interface.
    pub condition: Condition,
    /// Whether this host has the virtual IP, whether a daemon gave it that (its mark says so), and
    /// whether one runs.
    pub has_vip: bool,
    /// See `has_vip`.
    pub has_mark: bool,
    /// See `has_vip`.
    pub has_daemon: bool,
    /// What this host believes to be the virtual IP's MAC, and whether that was set by hand.
    pub neighbour: Option<(MacAddr, bool)>,
    /// `rp_filter` in force: the larger of that of the interface and that of all. IPv6 has none.
    pub rp_filter: u8,
    /// Whether there is a default route, and one by this interface.
    pub has_default_route: bool,
    /// See `has_default_route`.
    pub has_default_route_here: bool,
    /// `drop_unicast_in_l2_multicast` of IPv4 in force; for that of IPv6 see [`super::obstacles`].
    pub drops_unicast_in_multicast: bool,
    /// Whether the virtual IP is the only IPv6 address from which this host can speak beyond the link.
    pub speaks_from_vip: bool,
    /// Whether rules can ask connection tracking.
    pub has_conntrack: bool,
    /// Flows that are tracked, and the most that can be.
    pub conntrack: Option<(u64, u64)>,
    /// What rules of others do; nothing if they cannot be listed.
    pub firewall: Option<Vec<Hit>>,
    /// Whether there are rules of the old iptables, which nft does not list.
    pub has_legacy_rules: bool,
}

impl Facts {
    /// Looks at this host.
    pub async fn gather(links: &Links, link: &Link, condition: Condition) -> Result<Self> {
        let vip = link.addresses.vip();
        let conf = |name: &str| {
            let scopes = [&link.name, "all"].into_iter().filter(|_| vip.is_ipv4());
            scopes
                .filter_map(|scope| sysctl(&format!("ipv4/conf/{scope}/{name}")))
                .max()
                .unwrap_or(0)
        };
        let legacy = match vip {
            IpAddr::V4(_) => "ip_tables_names",
            IpAddr::V6(_) => "ip6_tables_names",
        };
        let routes = links.routes(vip).await?;
        let mut defaults = routes.iter().filter(|hop| hop.prefix == 0).map(|hop| hop.index);
        let ruleset = nft::ruleset_json();
        Ok(Self {
            interface: link.name.clone(),
            vip,
            condition,
            has_vip: links.addresses().await?.holders(vip).next().is_some(),
            has_mark: links.marks().await?.iter().any(|marked| marked.vips().any(|it| it == vip)),
            has_daemon: control::is_running(vip),
            neighbour: links.neighbour(link.index, vip).await?,
            rp_filter: conf("rp_filter") as u8,
            has_default_route: defaults.clone().next().is_some(),
            has_default_route_here: defaults.any(|index| index == link.index),
            drops_unicast_in_multicast: conf("drop_unicast_in_l2_multicast") != 0,
            speaks_from_vip: vip.is_ipv6() && !links.has_preferred_ipv6().await?,
            has_conntrack: nft::has_conntrack()?,
            conntrack: sysctl("netfilter/nf_conntrack_count")
                .zip(sysctl("netfilter/nf_conntrack_max")),
            firewall: ruleset
                .ok()
                .map(|ruleset| examine(&ruleset, &link.name, vip, &listeners::tcp_ports(vip))),
            has_legacy_rules: fs::read_to_string(format!("/proc/thread-self/net/{legacy}"))
                .is_ok_and(|tables| !tables.trim().is_empty()),
        })
    }

    /// What of them is not in order.
    pub fn judge(&self) -> Vec<Finding> {
        let Self { interface, vip, .. } = self;
        let mut findings = Vec::new();
        if !self.condition.has_carrier {
            let text =
                format!("{interface} has no carrier: nobody is at the other end of its cable");
            findings.push(Finding::problem(Culprit::Carrier, text));
        }
        if let Some(master) = &self.condition.port_of {
            let command = format!("clusterd doctor {} {vip}", master.name);
            let text = master.takes_from(interface);
            findings.push(Finding::problem(Culprit::Interface, text).try_this(command));
        }
        findings.extend(self.judge_address());
        findings.extend(self.judge_neighbour());
        if self.rp_filter == 1 && self.has_default_route && !self.has_default_route_here {
            let text = format!(
                "strict reverse path filtering: packets of clients that this host does not reach by \
                 {interface} are dropped, which matters if a router of this segment brings some"
            );
            // As sysctl(8) has names with a dot of their own.
            let name = interface.replace('.', "/");
            let command =
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2 net.ipv4.conf.all.rp_filter=2");
            findings.push(Finding::note(Culprit::RpFilter, text).try_this(command));
        }
        if self.drops_unicast_in_multicast {
            let text = "drop_unicast_in_l2_multicast is on; it does no harm, since clusterd's rules make \
                        frames to the group MAC count as unicast before it looks";
            findings.push(Finding::note(Culprit::DropUnicastInMulticast, text));
        }
        if self.speaks_from_vip {
            let text = "this host has no other IPv6 address than the virtual IP for hosts beyond the link: what it \
                        asks them is answered to any host of the cluster; give it one";
            let command = format!("ip address add ADDRESS/64 dev {interface}");
            findings.push(Finding::note(Culprit::SpeaksFromVip, text).try_this(command));
        }
        findings.extend(self.judge_conntrack());
        match &self.firewall {
            Some(hits) => findings.extend(hits.iter().map(|hit| self.judge_hit(hit))),
            None => findings.push(Finding::note(
                Culprit::Firewall,
                "the rules of this host could not be listed (nft -j list ruleset), so nothing is said \
                 of them",
            )),
        }
        if self.has_legacy_rules {
            let text =
                "there are rules of the old iptables, which are not looked at; see for yourself";
            let command = match vip {
                IpAddr::V4(_) => "iptables-legacy -nvL",
                IpAddr::V6(_) => "ip6tables-legacy -nvL",
            };
            findings.push(Finding::note(Culprit::Firewall, text).try_this(command));
        }
        findings
    }

    fn judge_address(&self) -> Option<Finding> {
        let Self { interface, vip, .. } = self;
        if !self.has_vip || self.has_daemon {
            return None;
        }
        // The rules of a killed daemon still keep the kernel from answering for the address.
        Some(match self.has_mark {
            true => {
                let text = format!(
                    "a clusterd that was killed left {vip} on this host; start it again, or remove it"
                );
                Finding::note(Culprit::LeftBehind, text).try_this(format!("clusterd cleanup {vip}"))
            }
            false => {
                let text = format!(
                    "{vip} is an address of this host, configured by hand or by another program, and this host \
                     answers for it with its own MAC; remove it"
                );
                Finding::problem(Culprit::VipConfigured, text)
                    .try_this(format!("ip address del {vip} dev {interface}"))
            }
        })
    }

    fn judge_neighbour(&self) -> Option<Finding> {
        let Self { interface, vip, .. } = self;
        let (mac, is_static) = self.neighbour?;
        if MacMode::of(mac, *vip).is_some() {
            return None;
        }
        let how = if is_static { "a permanent" } else { "an old" };
        let text = format!("this host has {how} neighbour entry for {vip} at {mac}; remove it");
        let command = format!("ip neigh del {vip} dev {interface}");
        let finding = match is_static {
            true => Finding::problem(Culprit::NeighbourEntry, text),
            // It goes by itself once it is used.
            false => Finding::note(Culprit::NeighbourEntry, text),
        };
        Some(finding.try_this(command))
    }

    fn judge_conntrack(&self) -> Option<Finding> {
        if !self.has_conntrack {
            let text =
                "rules cannot ask connection tracking, which the handshake guard needs; load it";
            let command = "modprobe nf_conntrack";
            return Some(Finding::problem(Culprit::ConntrackMissing, text).try_this(command));
        }
        let (count, max) = self.conntrack?;
        if max == 0 || count * 100 < max * CONNTRACK_FULL_PERCENT {
            return None;
        }
        let text = format!(
            "connection tracking has {count} of {max} flows; when it is full, new connections are \
             dropped: make room"
        );
        let command = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2));
        Some(Finding::problem(Culprit::ConntrackFull, text).try_this(command))
    }

    fn judge_hit(&self, hit: &Hit) -> Finding {
        let Self { interface, vip, .. } = self;
        let Hit { chain, what, handle, to } = hit;
        let packets = match to {
            Traffic::Syn => format!("connections to {vip}"),
            Traffic::Claim => format!("claims (IP protocol 150 to {vip})"),
            Traffic::GroupFrame => {
                format!("connections to {vip} in frames to a group MAC (--mac multicast, igmp)")
            }
            Traffic::Port(port) => {
                format!("connections to port {port} of {vip} (a program listens there)")
            }
        };
        let header = match vip {
            IpAddr::V4(_) => "ip",
            IpAddr::V6(_) => "ip6",
        };
        let fits = match to {
            Traffic::Syn | Traffic::GroupFrame => format!("{header} daddr {vip}"),
            Traffic::Port(port) => format!("{header} daddr {vip} tcp dport {port}"),
            Traffic::Claim => format!("{header} daddr {vip} meta l4proto 150"),
        };
        let insert = format!("nft insert rule {chain} {fits} accept");
        let finding: fn(Culprit, String) -> Finding = match to.is_special() {
            true => |culprit, text| Finding::note(culprit, text),
            false => |culprit, text| Finding::problem(culprit, text),
        };
        let delete = |handle: &u64| format!("nft delete rule {chain} handle {handle}");
        match (what, handle) {
            (Effect::Drops, Some(handle)) => {
                let text = format!(
                    "rule {handle} of chain {chain}, or one that it jumps to, drops {packets}; let them in before it"
                );
                finding(Culprit::Firewall, text).try_this(insert)
            }
            (Effect::Drops, None) => {
                let text = format!(
                    "chain {chain} drops what no rule accepts, and none accepts {packets} by {interface}; add one"
                );
                finding(Culprit::Firewall, text).try_this(insert)
            }
            (Effect::MayDrop, _) => {
                let text = format!(
                    "chain {chain} drops {packets} unless a rule of it accepts them, which depends on port or client; see"
                );
                Finding::note(Culprit::Firewall, text).try_this("nft list ruleset")
            }
            (Effect::Untracks, handle) => {
                let text = format!(
                    "chain {chain} keeps {packets} from connection tracking, which the handshake guard needs; remove the rule"
                );
                let finding = finding(Culprit::ConntrackOff, text);
                match handle {
                    Some(handle) => finding.try_this(delete(handle)),
                    None => finding,
                }
            }
        }
    }
}

/// A number below `/proc/sys/net`.
fn sysctl(key: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/net/{key}")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Weight;
    use super::*;
    use crate::io::link::Master;

    fn sound() -> Facts {
        Facts {
            interface: "eth0".to_owned(),
            vip: "10.0.0.2".parse().unwrap(),
            condition: Condition { has_carrier: true, port_of: None, is_macvlan: false },
            has_vip: false,
            has_mark: false,
            has_daemon: false,
            neighbour: None,
            rp_filter: 0,
            has_default_route: true,
            has_default_route_here: true,
            drops_unicast_in_multicast: false,
            speaks_from_vip: false,
            has_conntrack: true,
            conntrack: Some((10, 1000)),
            firewall: Some(Vec::new()),
            has_legacy_rules: false,
        }
    }

    fn culprits(facts: &Facts) -> Vec<(Culprit, bool)> {
        let problem = |finding: &Finding| finding.weight == Weight::Problem;
        facts.judge().iter().map(|finding| (finding.culprit, problem(finding))).collect()
    }

    #[test]
    fn a_sound_host_has_nothing_to_find() {
        assert_eq!(culprits(&sound()), []);
    }

    #[test]
    fn each_culprit_is_named() {
        let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
        let hit_of = |what, handle, to| {
            let chain = "inet fw in".to_owned();
            Some(vec![Hit { chain, what, handle, to }])
        };
        let hit = |what, handle| hit_of(what, handle, Traffic::Syn);
        let of_port = hit_of(Effect::Drops, Some(4), Traffic::Port(80));
        let condition = |port_of: Option<&str>, has_carrier| Condition {
            has_carrier,
            port_of: port_of.map(|name| Master { name: name.to_owned(), is_bridge: true }),
            is_macvlan: false,
        };
        let cases = [
            (Facts { condition: condition(None, false), ..sound() }, Culprit::Carrier, true),
            (
                Facts { condition: condition(Some("br0"), true), ..sound() },
                Culprit::Interface,
                true,
            ),
            (Facts { has_vip: true, ..sound() }, Culprit::VipConfigured, true),
            (Facts { has_vip: true, has_mark: true, ..sound() }, Culprit::LeftBehind, false),
            (Facts { neighbour: Some((mac, true)), ..sound() }, Culprit::NeighbourEntry, true),
            (Facts { neighbour: Some((mac, false)), ..sound() }, Culprit::NeighbourEntry, false),
            (
                Facts { rp_filter: 1, has_default_route_here: false, ..sound() },
                Culprit::RpFilter,
                false,
            ),
            (Facts { speaks_from_vip: true, ..sound() }, Culprit::SpeaksFromVip, false),
            (
                Facts { drops_unicast_in_multicast: true, ..sound() },
                Culprit::DropUnicastInMulticast,
                false,
            ),
            (Facts { has_conntrack: false, ..sound() }, Culprit::ConntrackMissing, true),
            (Facts { conntrack: Some((950, 1000)), ..sound() }, Culprit::ConntrackFull, true),
            (Facts { firewall: hit(Effect::Drops, Some(4)), ..sound() }, Culprit::Firewall, true),
            (Facts { firewall: hit(Effect::Drops, None), ..sound() }, Culprit::Firewall, true),
            (Facts { firewall: hit(Effect::MayDrop, None), ..sound() }, Culprit::Firewall, false),
            (
                Facts { firewall: hit(Effect::Untracks, Some(4)), ..sound() },
                Culprit::ConntrackOff,
                true,
            ),
            (Facts { firewall: of_port, ..sound() }, Culprit::Firewall, false),
            (Facts { firewall: None, ..sound() }, Culprit::Firewall, false),
            (Facts { has_legacy_rules: true, ..sound() }, Culprit::Firewall, false),
        ];
        for (facts, culprit, is_problem) in cases {
            assert_eq!(culprits(&facts), [(culprit, is_problem)], "{facts:?}");
        }
    }

    #[test]
    fn what_is_as_it_must_be_is_no_finding() {
        let neighbour = Some((MacMode::Stealth.address(sound().vip), true));
        for facts in [
            Facts { has_vip: true, has_mark: true, has_daemon: true, ..sound() },
            Facts { neighbour, ..sound() },
            Facts { rp_filter: 1, ..sound() },
            Facts { rp_filter: 2, has_default_route_here: false, ..sound() },
            Facts { conntrack: None, ..sound() },
        ] {
            assert_eq!(culprits(&facts), [], "{facts:?}");
        }
    }
}
