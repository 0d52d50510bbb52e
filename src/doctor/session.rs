//! One participant's part: bulletins and probes at a fixed pace, and what comes from the others.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::modes::{ModeSet, PerMode};
use super::roster::{Peer, Roster};
use super::wire::{Bulletin, GatewayAnswer, Id, Probe, Role, Wants};
use crate::io::cluster_mac::MacMode;
use crate::io::doctor_socket::{Receiver, Sender, probe_payload};
use crate::io::link::Link;

/// One bulletin and one probe in each mode per tick: 40 frames in a second, 8 kB.
pub const TICK: Duration = Duration::from_millis(125);
/// Longest frame that is looked at.
const FRAME_MAX: usize = 1024;

/// A participant that asks: the doctor, or a daemon about to choose its mode.
pub struct Session {
    link: Link,
    vip: IpAddr,
    id: Id,
    role: Role,
    modes: ModeSet,
    router: Option<IpAddr>,
    bulletins: Receiver,
    probes: Receiver,
    sender: Sender,
    state: RefCell<State>,
}

struct State {
    roster: Roster,
    newest: Instant,
    sent: PerMode<u16>,
    gateway: PerMode<GatewayAnswer>,
    choice: Option<MacMode>,
    wants: Wants,
}

impl Session {
    /// Opens the sockets, with memberships in all of these modes. They end with this value. `router` is
    /// this host's gateway on the segment.
    pub fn open(link: &Link, role: Role, modes: ModeSet, router: Option<IpAddr>) -> Result<Self> {
        let vip = link.addresses.vip();
        let probes = Receiver::probes(link, vip, modes.iter())
            .with_context(|| format!("let {} receive frames to the MACs of {vip}", link.name))?;
        Ok(Self {
            link: link.clone(),
            vip,
            id: Id(rand::random()),
            role,
            modes,
            router,
            bulletins: Receiver::bulletins(link).context("open the socket for bulletins")?,
            probes,
            sender: Sender::open(link).context("open the socket to send from")?,
            state: RefCell::new(State {
                roster: Roster::default(),
                newest: Instant::now(),
                sent: PerMode::default(),
                gateway: PerMode::default(),
                choice: None,
                wants: Wants::Probe,
            }),
        })
    }

    /// Takes part until `is_over`, which is asked once per tick.
    pub async fn take_part(&self, is_over: impl Fn() -> bool) -> Result<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bulletin = [MaybeUninit::uninit(); FRAME_MAX];
        let mut probe = [MaybeUninit::uninit(); FRAME_MAX];
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if is_over() {
                        return Ok(());
                    }
                    self.speak();
                }
                bytes = self.bulletins.receive(&mut bulletin) => {
                    self.hear(bytes.context("receive bulletins")?);
                }
                packet = self.probes.receive(&mut probe) => {
                    let packet = packet.context("receive probes")?;
                    if let Some(probe) = probe_payload(packet).and_then(Probe::decode) {
                        self.state.borrow_mut().roster.probe(probe);
                    }
                }
            }
        }
    }

    fn speak(&self) {
        let mut state = self.state.borrow_mut();
        for mode in self.modes.iter() {
            let sequence = state.sent[mode].wrapping_add(1);
            state.sent[mode] = sequence;
            self.sender.probe(mode, &Probe { id: self.id, mode, sequence }.encode());
        }
        state.wants = match state.wants {
            Wants::Bulletin => Wants::Probe,
            Wants::Probe | Wants::Nothing => Wants::Bulletin,
        };
        let bulletin = Bulletin {
            id: self.id,
            role: self.role,
            wants: state.wants,
            vip: self.vip,
            address: self.link.addresses.own(),
            modes: self.modes,
            choice: state.choice,
            sent: state.sent,
            router: self.router,
            gateway: state.gateway,
            heard: state.roster.heard(),
        };
        self.sender.bulletin(&bulletin.encode());
    }

    fn hear(&self, bytes: &[u8]) {
        let Some(bulletin) = Bulletin::decode(bytes) else { return };
        // One's own comes back where a cable makes a loop.
        if bulletin.vip == self.vip && bulletin.id != self.id {
            let mut state = self.state.borrow_mut();
            if state.roster.bulletin(bulletin) {
                state.newest = Instant::now();
            }
        }
    }

    /// This participant.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Its gateway on the segment.
    pub fn router(&self) -> Option<IpAddr> {
        self.router
    }

    /// The modes it takes part in.
    pub fn modes(&self) -> ModeSet {
        self.modes
    }

    /// Those in which all can start that start at the same time: this participant, and each other
    /// one about to choose its mode.
    pub fn modes_of_all(&self) -> ModeSet {
        let state = self.state.borrow();
        let starting = || state.roster.peers().filter(|(_, peer)| peer.role == Role::Starting);
        let is_common = |mode: &MacMode| starting().all(|(_, peer)| peer.modes.contains(*mode));
        self.modes.iter().filter(is_common).collect()
    }

    /// The socket it sends from.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// All that it knows of the others, for now.
    pub fn roster(&self) -> Roster {
        self.state.borrow().roster.clone()
    }

    /// Has a daemon been heard?
    pub fn hears_daemon(&self) -> bool {
        let state = self.state.borrow();
        state.roster.peers().any(|(_, peer)| peer.role == Role::Daemon)
    }

    /// When the last of the others was heard for the first time; the beginning if none was.
    pub fn newest(&self) -> Instant {
        self.state.borrow().newest
    }

    /// Whether it is for this participant to try its gateway: of those that have the same one does it for
    /// all, so that they do not tell it different things at a time. That is the lowest of those that are
    /// no daemons.
    pub fn tries_gateway(&self) -> bool {
        let state = self.state.borrow();
        let alike = |peer: &Peer| peer.role != Role::Daemon && peer.router == self.router;
        let mut others = state.roster.peers().filter(|(_, peer)| alike(peer));
        !others.any(|(id, peer)| {
            id < self.id || peer.gateway.0.iter().any(|answer| *answer != GatewayAnswer::Untested)
        })
    }

    /// Tells the others what came of the gateway's test.
    pub fn set_gateway(&self, answers: PerMode<GatewayAnswer>) {
        self.state.borrow_mut().gateway = answers;
    }

    /// What this participant and the others have found out about their gateways.
    pub fn gateways(&self) -> BTreeMap<IpAddr, PerMode<GatewayAnswer>> {
        let state = self.state.borrow();
        let mut known: BTreeMap<_, _> =
            self.router.map(|router| (router, state.gateway)).into_iter().collect();
        for (_, peer) in state.roster.peers() {
            let Some(router) = peer.router else { continue };
            let answers = known.entry(router).or_default();
            for mode in MacMode::ALL {
                if answers[mode] == GatewayAnswer::Untested {
                    answers[mode] = peer.gateway[mode];
                }
            }
        }
        known
    }

    /// Whether somebody is trying a gateway.
    pub fn awaits_gateway(&self) -> bool {
        self.gateways().values().any(|answers| answers.0.contains(&GatewayAnswer::Pending))
    }

    /// Tells the others which mode this host has chosen.
    pub fn set_choice(&self, mode: MacMode) {
        self.state.borrow_mut().choice = Some(mode);
    }

    /// The mode that others have chosen, or run in: of daemons first, then by the lowest id below
    /// `before`, so that all who choose at the same moment end up with one.
    pub fn choice_of_others(&self, before: Option<Id>) -> Option<MacMode> {
        let state = self.state.borrow();
        let all = || state.roster.peers().filter_map(|(id, peer)| Some((id, peer, peer.choice?)));
        let daemons = all().find(|(_, peer, _)| peer.role == Role::Daemon);
        let starting = all().find(|&(id, peer, _)| {
            peer.role == Role::Starting && before.is_none_or(|before| id < before)
        });
        daemons.or(starting).map(|(_, _, mode)| mode)
    }
}
