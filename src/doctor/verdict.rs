//! From what was seen to who is to blame and which mode to use. No I/O, no clock.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use pnet::util::MacAddr;
use serde::Serialize;

use super::finding::{Culprit, Finding, Weight};
use super::modes::{ModeSet, PerMode};
use super::obstacles::Obstacles;
use super::port::Port;
use super::wire::{Count, GatewayAnswer, Id, Role};
use crate::io::cluster_mac::MacMode;

mod gateways;
mod silence;

/// Probes that must have been sent before anything is said of a way.
const EVIDENCE: u16 = 4;
/// Probes that may be under way while they are counted.
const UNDER_WAY: u16 = 2;

/// A participant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Its number.
    #[serde(skip)]
    pub id: Id,
    /// Its own address.
    pub address: IpAddr,
    /// What it is.
    pub role: Role,
    /// The mode it has chosen, or runs in.
    pub mode: Option<MacMode>,
    /// The modes it takes part in.
    #[serde(skip)]
    pub modes: ModeSet,
}

/// What one participant heard of another's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Who sent them.
    pub from: Id,
    /// Who listened.
    pub to: Id,
    /// To the MAC of this mode.
    pub mode: MacMode,
    /// How many.
    pub count: Count,
}

/// What is known of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub address: IpAddr,
    /// What it makes of each mode.
    pub answers: PerMode<GatewayAnswer>,
}

/// Everything that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observations {
    /// The interface.
    pub interface: String,
    /// The virtual IP.
    pub vip: IpAddr,
    /// The modes that were tried.
    pub modes: ModeSet,
    /// All participants, this one first.
    pub hosts: Vec<Host>,
    /// What they heard of each other.
    pub ways: Vec<Way>,
    /// The gateways of all hosts on this segment, that of this one first.
    pub gateways: Vec<Gateway>,
    /// What is known of the switch's port.
    pub port: Port,
    /// Who asks for members of groups, if anybody was heard.
    pub querier: Option<IpAddr>,
    /// How long this host has listened.
    pub listened: Duration,
    /// The MACs that others say the virtual IP has.
    pub holders: BTreeSet<MacAddr>,
    /// The mode in which this host's own daemon runs.
    pub own_mode: Option<MacMode>,
    /// What keeps modes from working on this host.
    pub obstacles: Obstacles,
    /// What else was found on it.
    pub host_findings: Vec<Finding>,
}

/// One mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModeVerdict {
    /// Which one.
    pub mode: MacMode,
    /// Ways from one host to another of which something can be said, and those that work.
    pub ways: usize,
    /// See `ways`.
    pub working: usize,
    /// What the gateway makes of it; of several one that has something against it.
    pub gateway: GatewayAnswer,
    /// Who is to blame if it does not work.
    pub culprit: Option<Culprit>,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The modes that were tried.
    pub modes: Vec<ModeVerdict>,
    /// The mode in which a cluster answers already.
    pub live: Option<MacMode>,
    /// The mode to use.
    pub recommended: Option<MacMode>,
    /// Other hosts that were heard.
    pub others: usize,
    /// What is not in order, and what is good to know.
    pub findings: Vec<Finding>,
}

impl ModeVerdict {
    /// Whether frames get from each host to each other; nothing if that was not seen.
    pub fn reaches_hosts(&self) -> Option<bool> {
        (self.ways > 0).then_some(self.working == self.ways)
    }
}

impl Verdict {
    /// Whether something must be changed.
    pub fn has_problems(&self) -> bool {
        self.findings.iter().any(|finding| finding.weight == Weight::Problem)
    }

    /// Whether there is a cluster in a mode of which nothing was seen here.
    pub fn live_is_unexamined(&self) -> bool {
        let is_seen = |live| self.modes.iter().any(|it| it.mode == live && it.ways > 0);
        self.others > 0 && self.live.is_some_and(|live| !is_seen(live))
    }
}

impl Way {
    fn is_evident(&self) -> bool {
        self.count.expected >= EVIDENCE
    }

    fn works(&self) -> bool {
        let Count { expected, got } = self.count;
        got.saturating_add(UNDER_WAY) >= expected || u32::from(got) * 10 >= u32::from(expected) * 9
    }

    fn loses(&self) -> bool {
        self.count.got.saturating_add(UNDER_WAY) < self.count.expected
    }
}

impl Observations {
    /// The verdict on all of it.
    pub fn verdict(&self) -> Verdict {
        let mut modes: Vec<_> = self.modes.iter().map(|mode| self.mode(mode)).collect();
        let blame =
            |mode: &ModeVerdict| self.obstacle(mode.mode).or_else(|| self.blame(mode, &modes));
        let blames: Vec<_> = modes.iter().map(blame).collect();
        for (mode, blame) in modes.iter_mut().zip(&blames) {
            mode.culprit = blame.as_ref().map(|finding| finding.culprit);
        }
        let live = self.live();
        // Alone nothing speaks against a mode; among others one that was not tried is not known.
        let is_alone = modes.iter().all(|mode| mode.ways == 0);
        let usable = |mode: MacMode| {
            let is_known = |other: &ModeVerdict| is_alone || other.ways > 0;
            let mut known = modes.iter().filter(|other| is_known(other));
            known.any(|other| other.mode == mode && other.culprit.is_none())
        };
        let recommended = match live {
            Some(live) if usable(live) => Some(live),
            Some(live) if !self.modes.contains(live) => None,
            Some(_) | None => self.modes.iter().find(|&mode| usable(mode)),
        };

        let mut findings = self.host_findings.clone();
        findings.extend(self.holders_findings());
        findings.extend(self.port_silence());
        findings.extend(self.gateway_silence());
        findings.extend(self.gateway_misled());
        for (mode, blame) in modes.iter().zip(blames) {
            // Where another mode will do, a mode that does not is no problem.
            let matters = match live {
                Some(live) => live == mode.mode,
                None => recommended.is_none(),
            };
            let Some(blame) = blame else { continue };
            let weight = if matters { Weight::Problem } else { Weight::Note };
            findings.push(Finding { weight, ..blame });
        }
        if live.or(recommended) == Some(MacMode::Igmp) {
            findings.extend(self.missing_querier(&modes));
        }
        findings.extend(self.loss(&modes));
        findings.sort_by_key(|finding| finding.weight == Weight::Note);
        Verdict { modes, live, recommended, others: self.hosts.len().saturating_sub(1), findings }
    }

    /// The mode in which a cluster answers already.
    fn live(&self) -> Option<MacMode> {
        let daemons = self.hosts.iter().filter(|host| host.role == Role::Daemon);
        let answered = || self.holders.iter().find_map(|&mac| MacMode::of(mac, self.vip));
        self.own_mode.or_else(|| daemons.filter_map(|host| host.mode).next()).or_else(answered)
    }

    fn ways_in(&self, mode: MacMode) -> impl Iterator<Item = &Way> {
        self.ways.iter().filter(move |way| way.mode == mode && way.is_evident())
    }

    fn mode(&self, mode: MacMode) -> ModeVerdict {
        ModeVerdict {
            mode,
            ways: self.ways_in(mode).count(),
            working: self.ways_in(mode).filter(|way| way.works()).count(),
            gateway: self.gateway_answer(mode),
            culprit: None,
        }
    }

    /// What keeps a host from using a mode, whatever the network does.
    fn obstacle(&self, mode: MacMode) -> Option<Finding> {
        let own = self.obstacles[mode].clone();
        // Nobody chooses `shared` by himself.
        let others = self.hosts.iter().skip(1).filter(|_| mode != MacMode::Shared);
        let mut unable =
            others.filter(|host| host.role == Role::Starting && !host.modes.contains(mode));
        own.or_else(|| {
            let address = unable.next()?.address;
            let text = format!(
                "{mode}: {address}, which is about to start, cannot use it; run the doctor there to hear why"
            );
            Some(Finding::problem(Culprit::HostCannot, text))
        })
    }

    /// Who keeps a mode from working, if anybody does.
    fn blame(&self, verdict: &ModeVerdict, all: &[ModeVerdict]) -> Option<Finding> {
        match verdict.reaches_hosts() {
            Some(false) => Some(
                self.blame_host(verdict.mode)
                    .unwrap_or_else(|| self.blame_switch(verdict.mode, all)),
            ),
            Some(true) | None => self.blame_gateway(verdict),
        }
    }

    /// One host that hears nobody, or that nobody hears, while the others hear each other.
    fn blame_host(&self, mode: MacMode) -> Option<Finding> {
        // A switch that learns the shared MAC looks like that for a while.
        if mode == MacMode::Shared {
            return None;
        }
        let (working, failing): (Vec<&Way>, Vec<&Way>) =
            self.ways_in(mode).partition(|way| way.works());
        if working.is_empty() {
            return None;
        }
        let mac = mode.address(self.vip);
        self.hosts.iter().find_map(|host| {
            let (id, address) = (host.id, host.address);
            let all_to = failing.iter().all(|way| way.to == id)
                && !working.iter().any(|way| way.to == id);
            let all_from = failing.iter().all(|way| way.from == id)
                && !working.iter().any(|way| way.from == id);
            if all_to {
                Some(Finding::problem(Culprit::DeafHost, format!(
                    "{mode}: frames to {mac} get to all hosts but {address}: its port, its network card or \
                     the virtual switch below it keeps them; allow it other MACs or promiscuous mode there"
                )))
            } else if all_from {
                Some(Finding::problem(Culprit::MuteHost, format!(
                    "{mode}: nobody gets what {address} sends to {mac}: port security, storm control or a \
                     filter at its port"
                )))
            } else {
                None
            }
        })
    }

    fn blame_switch(&self, mode: MacMode, all: &[ModeVerdict]) -> Finding {
        let reaches = |mode| {
            all.iter().any(|other: &ModeVerdict| {
                other.mode == mode && other.reaches_hosts() == Some(true)
            })
        };
        let [multicast, igmp, stealth] =
            [MacMode::Multicast, MacMode::Igmp, MacMode::Stealth].map(reaches);
        let (interface, vip, mac) = (&self.interface, self.vip, mode.address(self.vip));
        let snooping = self.group_protocol();
        let switch_to = |mode: MacMode| format!("clusterd {interface} {vip} --mac {mode}");
        let is_only_one = all.iter().all(|other| other.mode == mode || other.ways == 0);
        let segment = || {
            let more = match is_only_one {
                true => {
                    "no other mode was tried from host to host; to know more, run this on all hosts at \
                     the same time, in all modes"
                }
                false => "look at the ports' drop counters",
            };
            let what = match mac.is_multicast() {
                true => format!("{snooping} snooping, storm control"),
                false => "unknown unicast is not flooded, storm control".to_owned(),
            };
            let text = format!(
                "{mode}: frames to {mac} do not get to all hosts although broadcasts do: {what}, a virtual switch \
                 that delivers known MACs only, or more than one cause; {more}"
            );
            Finding::problem(Culprit::Segment, text)
        };
        match mode {
            MacMode::Multicast if igmp => Finding::problem(Culprit::MacSnooping, format!(
                "{mode}: the switch snoops {snooping} and forwards {mac} only where it was joined; use mode igmp, \
                 or have the switch flood unregistered group MACs"
            ))
            .try_this(switch_to(MacMode::Igmp)),
            MacMode::Multicast | MacMode::Igmp if stealth => Finding::problem(Culprit::Snooping, format!(
                "{mode}: the switch snoops {snooping} and has a querier, so frames to the group MAC {mac} go to \
                 no port; use mode stealth, or switch snooping off for this network"
            ))
            .try_this(switch_to(MacMode::Stealth)),
            MacMode::Igmp if multicast => Finding::problem(Culprit::Snooping, format!(
                "{mode}: the switch prunes {mac} although the hosts have joined its group; use mode \
                 multicast"
            ))
            .try_this(switch_to(MacMode::Multicast)),
            MacMode::Stealth if multicast || igmp => {
                let other = if multicast { MacMode::Multicast } else { MacMode::Igmp };
                Finding::problem(Culprit::UnknownUnicast, format!(
                    "{mode}: the switch does not flood unicast MACs that it has not learnt, and {mac} is \
                     never learnt; use mode {other}, or switch flooding of unknown unicast on"
                ))
                .try_this(switch_to(other))
            }
            MacMode::Shared => Finding::problem(Culprit::Learning, format!(
                "{mode}: the switch learns {mac} at the port of the host that sent last, and the others get \
                 nothing; this mode is for hubs"
            )),
            MacMode::Multicast | MacMode::Igmp | MacMode::Stealth => segment(),
        }
    }

    /// What tells of somebody outside the cluster who answers for the virtual IP.
    pub fn rival(&self) -> Option<Culprit> {
        let is_stranger = |&mac: &MacAddr| MacMode::of(mac, self.vip).is_none();
        if self.holders.iter().any(is_stranger) {
            return Some(Culprit::DuplicateVip);
        }
        let mut own = self.host_findings.iter().map(|finding| finding.culprit);
        own.find(|culprit| *culprit == Culprit::VipConfigured)
    }

    fn holders_findings(&self) -> Vec<Finding> {
        let Self { vip, .. } = self;
        let stranger = |mac: &&MacAddr| MacMode::of(**mac, *vip).is_none();
        let mut findings: Vec<_> = self
            .holders
            .iter()
            .filter(stranger)
            .map(|&mac| {
                let text = match MacMode::read(mac) {
                    Some((mode, first)) => format!(
                        "{vip} is a further virtual IP of the cluster that {first} names (--mac {mode}), or an \
                         IPv6 address, of which these four bytes of {mac} are the hash: ask the doctor about \
                         that one, or choose another address"
                    ),
                    None => format!(
                        "{vip} is in use: a host outside the cluster answers for it with {mac}; stop it \
                         there or choose another address"
                    ),
                };
                Finding::problem(Culprit::DuplicateVip, text)
            })
            .collect();
        let by_arp = self.holders.iter().filter_map(|&mac| MacMode::of(mac, *vip));
        let daemons = self.hosts.iter().filter(|host| host.role == Role::Daemon);
        let mut modes: Vec<_> = daemons.filter_map(|host| host.mode).chain(by_arp).collect();
        modes.extend(self.own_mode);
        modes.sort_by_key(|mode| mode.name());
        modes.dedup();
        if modes.len() > 1 {
            let names: Vec<_> = modes.iter().map(|mode| mode.name()).collect();
            findings.push(Finding::problem(Culprit::MixedModes, format!(
                "{vip} is answered in modes {}: all hosts need the same; stop all, then start them with one",
                names.join(" and ")
            )));
        }
        findings
    }

    /// Ways that work, but not always.
    fn loss(&self, modes: &[ModeVerdict]) -> Option<Finding> {
        let working = modes.iter().filter(|mode| mode.reaches_hosts() == Some(true));
        let ways = working.flat_map(|mode| self.ways_in(mode.mode));
        let worst = ways.filter(|way| way.loses()).max_by_key(|way| {
            u32::from(way.count.expected - way.count.got) * 1000 / u32::from(way.count.expected)
        })?;
        let address = |id| {
            let host = self.hosts.iter().find(|host| host.id == id);
            host.map_or_else(String::new, |host| host.address.to_string())
        };
        let Way { from, to, mode, count } = *worst;
        Some(Finding::note(
            Culprit::Loss,
            format!(
                "{mode}: of {} probes from {} to {} only {} arrived: an overloaded host, or a bad cable",
                count.expected,
                address(from),
                address(to),
                count.got
            ),
        ))
    }
}

#[cfg(test)]
mod tests;
