//! The course of an examination: listen, try the gateway, listen on, put together what was seen.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use pnet::util::MacAddr;
use tokio::time::Instant;

use super::gateway::{Reach, Trial};
use super::host::Facts;
use super::modes::ModeSet;
use super::session::Session;
use super::verdict::{Gateway, Host, Observations, Way};
use super::wire::Role;
use crate::control;
use crate::io::arp::Arp;
use crate::io::cluster_mac::MacMode;
use crate::io::link::{Hop, Link, Links};

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
    /// The virtual IP.
    pub vip: Ipv4Addr,
    /// What this process is.
    pub role: Role,
    /// The modes to try.
    pub modes: ModeSet,
}

impl Examination<'_> {
    /// Waits up to `window` for others, longer if one comes late, and returns what was seen. The
    /// session may go on.
    pub async fn run(&self, window: Duration) -> Result<(Session, Observations)> {
        let Self { links, link, vip, role, modes } = *self;
        let begin = Instant::now();
        let session = Session::open(link, vip, role, modes)?;
        let arp = Arp::open(link, vec![vip], MacMode::Multicast.address(vip.into()))
            .context("open the ARP socket")?;
        let look = async {
            let condition = links.condition(&link.name).await?;
            let condition = condition.context("the interface was removed")?;
            Facts::gather(links, link, condition, vip).await
        };
        let ask = async { arp.holders(vip).await.context("ask for the virtual IP") };
        let first = session.take_part(|| begin.elapsed() >= FIRST);
        let (facts, holders, ()) = tokio::try_join!(look, ask, first)?;
        let gateway = gateway(&links.routes().await?, link.index);
        let mut observations = Observations {
            interface: link.name.clone(),
            vip,
            modes,
            hosts: Vec::new(),
            ways: Vec::new(),
            gateway: gateway.map(|address| Gateway {
                address,
                reach: None,
                answers: session.gateway(),
            }),
            holders,
            own_mode: self.own_mode().await?,
            host_findings: facts.judge(),
        };
        observations.add(&session, link);

        // When the trial of the gateway ended; the others shall hear of it.
        let done = Cell::new(None);
        let trial = async {
            let reach = self.try_gateway(&session, &observations).await;
            done.set(Some(Instant::now()));
            reach
        };
        let is_told = || done.get().is_some_and(|done: Instant| done.elapsed() >= TELL);
        let is_over = || is_told() && self.is_over(&session, begin, window);
        let (reach, ()) = tokio::try_join!(trial, session.take_part(is_over))?;
        if let Some(gateway) = &mut observations.gateway {
            (gateway.reach, gateway.answers) = (reach, session.gateway());
        }
        observations.add(&session, link);
        Ok((session, observations))
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
        if !control::is_running(self.vip.into()) {
            return Ok(None);
        }
        let marks = self.links.marks().await?;
        let own = marks.iter().find(|marked| marked.mark.vip == self.vip);
        Ok(own.map(|marked| marked.mark.mode))
    }

    /// Tries the gateway, if that is for this host to do.
    async fn try_gateway(&self, session: &Session, seen: &Observations) -> Result<Option<Reach>> {
        let Some(gateway) = &seen.gateway else { return Ok(None) };
        if !session.tries_gateway() {
            return Ok(None);
        }
        // To say that it is elsewhere would take the address away from whoever has it.
        let is_of_cluster = |&mac: &MacAddr| MacMode::of(mac, self.vip.into()).is_some();
        if !seen.holders.iter().all(is_of_cluster) {
            return Ok(None);
        }
        let live = seen.verdict().live;
        let modes: Vec<_> =
            self.modes.iter().filter(|&mode| live.is_none_or(|live| live == mode)).collect();
        let trial = Trial {
            link: self.link,
            vip: self.vip,
            gateway: gateway.address,
            modes: &modes,
            // A daemon may start while this goes on.
            is_live: &|| live.is_some() || session.hears_daemon(),
        };
        trial.run(session.sender(), |answers| session.set_gateway(answers)).await.map(Some)
    }
}

/// The gateway by an interface: that of the default route, else of the widest one.
fn gateway(routes: &[Hop], index: u32) -> Option<Ipv4Addr> {
    let here = routes.iter().filter(|hop| hop.index == index);
    here.filter_map(|hop| Some((hop.prefix, hop.gateway?))).min().map(|(_, gateway)| gateway)
}

impl Observations {
    /// Takes over all that a session knows by now.
    fn add(&mut self, session: &Session, link: &Link) {
        let roster = session.roster();
        let own = Host {
            id: session.id(),
            address: link.addresses.own(),
            role: Role::Doctor,
            mode: self.own_mode,
        };
        let peer = |(id, peer): (_, &super::roster::Peer)| Host {
            id,
            address: peer.address,
            role: peer.role,
            mode: peer.choice,
        };
        self.hosts = std::iter::once(own).chain(roster.peers().map(peer)).collect();
        let modes_of = |id| {
            if id == session.id() {
                return session.modes();
            }
            let peer = roster.peers().find(|(other, _)| *other == id);
            peer.map_or(ModeSet::default(), |(_, peer)| peer.modes)
        };
        self.ways.clear();
        let mut add = |from, to, counts: super::modes::PerMode<super::wire::Count>| {
            // Whoever does not listen in a mode has not missed anything.
            let common = MacMode::ALL
                .into_iter()
                .filter(|&mode| modes_of(from).contains(mode) && modes_of(to).contains(mode));
            self.ways.extend(common.map(|mode| Way { from, to, mode, count: counts[mode] }));
        };
        for (id, peer) in roster.peers() {
            add(id, session.id(), peer.counts());
            for &(from, counts) in &peer.heard {
                add(from, id, counts);
            }
        }
    }
}
