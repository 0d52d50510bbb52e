//! The course of an examination: listen, try the gateway, listen on, put together what was seen.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::gateway::Trial;
use super::host::Facts;
use super::modes::{ModeSet, PerMode};
use super::obstacles;
use super::port::PortWatch;
use super::querier::QuerierWatch;
use super::roster::{Peer, Roster};
use super::session::Session;
use super::verdict::{Gateway, Host, Observations, Way};
use super::wire::{Count, Role};
use crate::control;
use crate::io::cluster_mac::MacMode;
use crate::io::link::{Hop, Link, Links};
use crate::io::neighbours::Neighbours;

/// How long to listen before the gateway is tried: whoever is there has been heard by then.
const FIRST: Duration = Duration::from_secs(1);
/// How long each pair of participants listens to each other at least.
const TOGETHER: Duration = Duration::from_secs(3);

/// How long a participant that has tried the gateway tells the others.
const TELL: Duration = Duration::from_millis(500);
/// How long to wait for what is incomplete at the end of the window.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to examine, and as what.
pub struct Examination<'a> {
    /// A connection to rtnetlink.
    pub links: &'a Links,
    /// The interface.
    pub link: &'a Link,
    /// What this process is.
    pub role: Role,
    /// The modes to try.
    pub modes: ModeSet,
}

/// What listens all the time.
struct Watches {
    port: PortWatch,
    querier: QuerierWatch,
}

impl Examination<'_> {
    /// Waits up to `window` for others, longer if one comes late, and returns what was seen. The
    /// session may go on.
    pub async fn run(&self, window: Duration) -> Result<(Session, Observations)> {
        let Self { links, link, role, modes } = *self;
        let router = gateway(&links.routes(link.addresses.vip()).await?, link.index);
        let session = Session::open(link, role, modes, router)?;
        let watches = Watches { port: PortWatch::open(link)?, querier: QuerierWatch::open(link)? };
        let listen = async { tokio::try_join!(watches.port.listen(), watches.querier.listen()) };
        let observations = tokio::select! {
            never = listen => match never?.0 {},
            observations = self.look(&session, &watches, window) => observations?,
        };
        Ok((session, observations))
    }

    async fn look(
        &self,
        session: &Session,
        watches: &Watches,
        window: Duration,
    ) -> Result<Observations> {
        let Self { links, link, modes, .. } = *self;
        let begin = Instant::now();
        let neighbours = Neighbours::open(link, MacMode::Multicast)
            .context("open the socket for ARP or neighbour discovery")?;
        let look = async {
            let condition = links.condition(&link.name).await?;
            let condition = condition.context("the interface was removed")?;
            let obstacles = obstacles::look(link, &condition)?;
            anyhow::Ok((Facts::gather(links, link, condition).await?, obstacles))
        };
        let vip = link.addresses.vip();
        let ask = async { neighbours.holders(vip).await.context("ask for the virtual IP") };
        let first = session.take_part(|| begin.elapsed() >= FIRST);
        let ((facts, obstacles), holders, ()) = tokio::try_join!(look, ask, first)?;
        watches.querier.provoke();
        let mut seen = Observations {
            interface: link.name.clone(),
            vip: link.addresses.vip(),
            modes,
            hosts: Vec::new(),
            ways: Vec::new(),
            gateways: Vec::new(),
            port: watches.port.port(),
            querier: None,
            listened: begin.elapsed(),
            holders,
            own_mode: self.own_mode().await?,
            obstacles,
            host_findings: facts.judge(),
        };
        seen.add(session, self);

        // When the trial of the gateway ended; the others shall hear of it.
        let done = Cell::new(None);
        let trial = async {
            let outcome = self.try_gateway(session, &seen).await;
            done.set(Some(Instant::now()));
            outcome
        };
        let is_told = || done.get().is_some_and(|done: Instant| done.elapsed() >= TELL);
        let is_over = || is_told() && self.is_over(session, begin, window);
        tokio::try_join!(trial, session.take_part(is_over))?;
        seen.add(session, self);
        seen.port = watches.port.port();
        seen.querier = watches.querier.source();
        seen.listened = begin.elapsed();
        Ok(seen)
    }

    fn is_over(&self, session: &Session, begin: Instant, window: Duration) -> bool {
        let roster = session.roster();
        let others: Vec<_> = roster.peers().map(|(_, peer)| peer.role).collect();
        // Daemons do not go away and come back; doctors are started by hand, one after the other.
        let only_daemons = !others.is_empty() && others.iter().all(|role| *role == Role::Daemon);
        let wait = if only_daemons { TOGETHER.min(window) } else { window };
        let together = session.newest().elapsed() >= TOGETHER.min(window);
        let is_complete = together && !session.awaits_gateway();
        // Whoever comes again and again, or stops half way, does not keep this one here for ever.
        begin.elapsed() >= wait && (is_complete || begin.elapsed() >= window + PATIENCE)
    }

    /// The mode of the daemon on this host.
    async fn own_mode(&self) -> Result<Option<MacMode>> {
        let vip = self.link.addresses.vip();
        if !control::is_running(vip) {
            return Ok(None);
        }
        let marks = self.links.marks().await?;
        let own = marks.iter().find(|marked| marked.mark.vip == vip);
        Ok(own.map(|marked| marked.mark.mode))
    }

    /// Tries the gateway, if that is for this host to do.
    async fn try_gateway(&self, session: &Session, seen: &Observations) -> Result<()> {
        let Some(gateway) = session.router().filter(|_| session.tries_gateway()) else {
            return Ok(());
        };
        // To say that it is elsewhere would take the address away from whoever has it, and what the
        // gateway makes of a MAC says nothing while it hears of another.
        if seen.rival().is_some() {
            return Ok(());
        }
        let live = seen.verdict().live;
        let modes: Vec<_> =
            self.modes.iter().filter(|&mode| live.is_none_or(|live| live == mode)).collect();
        let trial = Trial {
            link: self.link,
            gateway,
            modes: &modes,
            // A daemon may start while this goes on.
            is_live: &|| live.is_some() || session.hears_daemon(),
        };
        let told = trial.run(session.sender(), |answers| session.set_gateway(answers)).await?;
        if let Some(mac) = told {
            let mut now = seen.clone();
            now.add(session, self);
            let verdict = now.verdict();
            if let Some(mode) = verdict.live.or(verdict.recommended) {
                trial.leave(session.sender(), mac, mode);
            }
        }
        Ok(())
    }
}

/// The gateway by an interface: that of the default route, else of the widest one; of several the one
/// that the kernel takes.
fn gateway(routes: &[Hop], index: u32) -> Option<IpAddr> {
    let here = routes.iter().filter(|hop| hop.index == index);
    let known = here.filter_map(|hop| Some((hop.prefix, hop.metric, hop.gateway?)));
    known.min().map(|(_, _, gateway)| gateway)
}

impl Observations {
    /// Takes over all that a session knows by now.
    fn add(&mut self, session: &Session, examination: &Examination<'_>) {
        let Examination { link, role, .. } = *examination;
        let roster = session.roster();
        let own = Host {
            id: session.id(),
            address: link.addresses.own(),
            role,
            mode: self.own_mode,
            modes: session.modes(),
        };
        (self.hosts, self.ways) = hosts_and_ways(own, &roster);
        let mut gateways = session.gateways();
        // This host's own first.
        let own = session.router().and_then(|router| gateways.remove_entry(&router));
        let gateway = |(address, answers)| Gateway { address, answers };
        self.gateways = own.into_iter().chain(gateways).map(gateway).collect();
    }
}

/// All hosts, `own` first, and what they heard of each other. A doctor beside a daemon has the address
/// of that, and the two are one host.
fn hosts_and_ways(own: Host, roster: &Roster) -> (Vec<Host>, Vec<Way>) {
    // Of each participant its host, and the modes in which it takes part itself.
    let mut participants = BTreeMap::from([(own.id, (own.id, own.modes))]);
    let own_id = own.id;
    let mut hosts = vec![own];
    for (id, &Peer { address, role, choice: mode, modes, .. }) in roster.peers() {
        let host = match hosts.iter_mut().find(|host| host.address == address) {
            Some(host) => {
                if role > host.role {
                    (host.role, host.mode, host.modes) = (role, mode, modes);
                }
                host.id
            }
            None => {
                hosts.push(Host { id, address, role, mode, modes });
                id
            }
        };
        participants.insert(id, (host, modes));
    }
    let mut ways: Vec<Way> = Vec::new();
    let mut add = |from, to, counts: PerMode<Count>| {
        let known = participants.get(&from).zip(participants.get(&to));
        let Some((&(from, sends), &(to, listens))) = known.filter(|(from, to)| from.0 != to.0)
        else {
            return;
        };
        // Whoever does not listen in a mode has not missed anything.
        for mode in sends.iter().filter(|&mode| listens.contains(mode)) {
            let way = Way { from, to, mode, count: counts[mode] };
            let is_same = |other: &&mut Way| (other.from, other.to, other.mode) == (from, to, mode);
            match ways.iter_mut().find(is_same) {
                // The frames of either take the same way, so the one of which more were sent will do.
                Some(other) if other.count.expected >= way.count.expected => {}
                Some(other) => *other = way,
                None => ways.push(way),
            }
        }
    };
    for (id, peer) in roster.peers() {
        add(id, own_id, peer.counts());
        for &(from, counts) in &peer.heard {
            add(from, id, counts);
        }
    }
    (hosts, ways)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::wire::{Bulletin, Id, Wants};

    #[test]
    fn a_doctor_beside_a_daemon_is_one_host_with_it() {
        let (stealth, all) = (ModeSet::of(&[MacMode::Stealth]), ModeSet::of(&MacMode::ALL));
        let address = |host| IpAddr::from([10, 0, 0, host]);
        let count = |expected, got| PerMode([Count { expected, got }; 4]);
        let mut roster = Roster::default();
        // Doctors 1 and 2 run beside daemons on the hosts 11 and 12, on 13 is a daemon alone. Nobody hears
        // who is on the same host.
        for (id, host, role, modes, heard) in [
            (2, 12, Role::Doctor, all, vec![(1, 40, 40), (21, 9, 9), (23, 9, 9)]),
            (21, 11, Role::Daemon, stealth, vec![(2, 8, 8), (23, 5, 0)]),
            (22, 12, Role::Daemon, stealth, vec![(1, 20, 1), (23, 30, 29)]),
            (23, 13, Role::Daemon, stealth, vec![(1, 20, 20), (2, 20, 20), (22, 5, 5)]),
        ] {
            roster.bulletin(Bulletin {
                id: Id(id),
                role,
                wants: Wants::Nothing,
                vip: address(2),
                address: address(host),
                modes,
                choice: (role == Role::Daemon).then_some(MacMode::Stealth),
                sent: PerMode::default(),
                router: None,
                gateway: PerMode::default(),
                heard: heard.iter().map(|&(id, sent, got)| (Id(id), count(sent, got))).collect(),
            });
        }
        let (role, mode) = (Role::Doctor, Some(MacMode::Stealth));
        let own = Host { id: Id(1), address: address(11), role, mode, modes: all };
        let (hosts, ways) = hosts_and_ways(own, &roster);
        let known: Vec<_> = hosts.iter().map(|it| (it.id.0, it.address, it.role)).collect();
        let (first, second, third) = (address(11), address(12), address(13));
        assert_eq!(
            known,
            [(1, first, Role::Daemon), (2, second, Role::Daemon), (23, third, Role::Daemon)]
        );
        let stealth = ways.iter().filter(|way| way.mode == MacMode::Stealth);
        let mut stealth: Vec<_> =
            stealth.map(|way| (way.from.0, way.to.0, way.count.expected, way.count.got)).collect();
        stealth.sort_unstable();
        assert_eq!(
            stealth,
            [
                (1, 2, 40, 40),
                (1, 23, 20, 20),
                (2, 1, 8, 8),
                (2, 23, 20, 20),
                (23, 1, 5, 0),
                (23, 2, 30, 29)
            ]
        );
        // Only doctors listen in the other modes.
        let others = ways.iter().filter(|way| way.mode == MacMode::Igmp);
        let others: Vec<_> = others.map(|way| (way.from.0, way.to.0)).collect();
        assert_eq!(others, [(2, 1), (1, 2)]);
    }

    #[test]
    fn of_several_gateways_the_kernel_takes_that_of_the_lowest_metric() {
        let hop = |index, gateway: &str, prefix, metric| {
            let gateway = gateway.parse().ok();
            Hop { index, gateway, prefix, metric }
        };
        let routes = [
            hop(2, "", 24, 0),
            hop(2, "10.0.0.7", 8, 0),
            hop(2, "10.0.0.1", 0, 200),
            hop(2, "10.0.0.254", 0, 100),
            hop(3, "10.1.0.1", 0, 50),
        ];
        assert_eq!(gateway(&routes, 2), "10.0.0.254".parse().ok());
        assert_eq!(gateway(&routes[..2], 2), "10.0.0.7".parse().ok());
        assert_eq!(gateway(&routes, 4), None);
    }
}
