//! Does the gateway accept the MAC of the virtual IP?
//!
//! An echo request *from* the virtual IP makes it ask for the MAC. It gets the mode's as answer, and if
//! it accepts that, the echo reply comes to it. While a cluster is live only that cluster's mode is
//! tried, and its daemons answer the question: the gateway must not learn another MAC.

mod speech;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use pnet::util::MacAddr;
use tokio::time::{Instant, timeout_at};

use super::modes::PerMode;
use super::wire::GatewayAnswer;
use crate::io::cluster_mac::MacMode;
use crate::io::doctor_socket::{Receiver, Sender};
use crate::io::link::Link;
use speech::{Asker, Event, Outgoing, Speech};

/// How often a question is sent again.
const REPEAT: Duration = Duration::from_millis(200);
/// How long the gateway may take to answer a question of this host's own.
const PATIENCE: Duration = Duration::from_millis(600);
/// How long it may take to answer the virtual IP: who does not accept an answer asks again after a second
/// (Linux, `retrans_time_ms`; RFC 4861 10), and that tells a refusal from a lost frame.
const PATIENCE_MODE: Duration = Duration::from_millis(1300);
/// Longest frame that is looked at.
const FRAME_MAX: usize = 512;

/// What there is to try.
pub struct Trial<'a> {
    /// This host's interface.
    pub link: &'a Link,
    /// The gateway, of the virtual IP's family.
    pub gateway: IpAddr,
    /// The modes to try.
    pub modes: &'a [MacMode],
    /// Whether a cluster answers for the virtual IP already.
    pub is_live: &'a dyn Fn() -> bool,
}

impl Trial<'_> {
    /// Tries all modes, and tells `progress` as far as it is. Takes some 7 seconds at most. The MAC of the
    /// gateway if that has been told something, which is to be put right with [`Trial::leave`].
    pub async fn run(
        &self,
        sender: &Sender,
        progress: impl Fn(PerMode<GatewayAnswer>),
    ) -> Result<Option<MacAddr>> {
        let Some(speech) = Speech::new(self.link.addresses, self.gateway) else { return Ok(None) };
        let trial = Running {
            trial: self,
            speech,
            sender,
            neighbours: Receiver::neighbour_frames(self.link)
                .context("open a socket for the gateway's questions")?,
            echoes: Receiver::echo_frames(self.link).context("open a socket for replies")?,
            ident: rand::random(),
            others: RefCell::default(),
            has_told: Cell::new(false),
        };
        let all = |answer| {
            let mut answers = PerMode::default();
            self.modes.iter().for_each(|&mode| answers[mode] = answer);
            answers
        };
        let mut answers = all(GatewayAnswer::Pending);
        progress(answers);
        let Some(mac) = trial.resolve().await? else {
            progress(all(GatewayAnswer::Silent));
            return Ok(None);
        };
        let answers_pings = trial.ping(mac).await?;
        for (&mode, number) in self.modes.iter().zip(1..) {
            answers[mode] = match trial.try_mode(mac, mode, number).await? {
                GatewayAnswer::Accepts => GatewayAnswer::Accepts,
                _ if !answers_pings => GatewayAnswer::NoPing,
                answer => answer,
            };
            progress(answers);
        }
        Ok(Some(mac).filter(|_| trial.has_told.get()))
    }

    /// Leaves the gateway at `to` with the MAC of a mode: it would go on sending to that of the mode tried
    /// last, some for hours.
    pub fn leave(&self, sender: &Sender, to: MacAddr, mode: MacMode) {
        if let Some(speech) = Speech::new(self.link.addresses, self.gateway) {
            let Outgoing { to, kind, packet } =
                speech.announce(to, mode.address(self.link.addresses.vip()));
            sender.send(to, kind, &packet);
        }
    }
}

struct Running<'a> {
    trial: &'a Trial<'a>,
    speech: Speech,
    sender: &'a Sender,
    neighbours: Receiver,
    echoes: Receiver,
    ident: u16,
    /// Who has asked for the virtual IP before the gateway had reason to.
    others: RefCell<BTreeSet<Asker>>,
    /// Whether a MAC of the virtual IP was named.
    has_told: Cell<bool>,
}

impl Running<'_> {
    async fn resolve(&self) -> Result<Option<MacAddr>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.send(&self.speech.ask(self.trial.link.mac));
            let again = Instant::now() + REPEAT;
            while let Some(event) = self.event(again).await? {
                match event {
                    Event::Here(mac) => return Ok(Some(mac)),
                    Event::Asks(asker) => drop(self.others.borrow_mut().insert(asker)),
                    Event::Reply(..) => {}
                }
            }
        }
        Ok(None)
    }

    async fn ping(&self, gateway: MacAddr) -> Result<bool> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.send(&self.speech.ping(gateway, self.ident, 0));
            let again = Instant::now() + REPEAT;
            while let Some(event) = self.event(again).await? {
                match event {
                    Event::Reply(0, _) => return Ok(true),
                    Event::Asks(asker) => drop(self.others.borrow_mut().insert(asker)),
                    Event::Reply(..) | Event::Here(_) => {}
                }
            }
        }
        Ok(false)
    }

    async fn try_mode(
        &self,
        gateway: MacAddr,
        mode: MacMode,
        number: u16,
    ) -> Result<GatewayAnswer> {
        let mac = mode.address(self.trial.link.addresses.vip());
        let (mut asked, mut elsewhere) = (0, None);
        if !(self.trial.is_live)() {
            // It may know the MAC of the mode tried before; whoever knows none learns nothing.
            self.tell(&self.speech.announce(gateway, mac));
        }
        let end = Instant::now() + PATIENCE_MODE;
        while Instant::now() < end {
            self.send(&self.speech.ping_from_vip(gateway, self.ident, number));
            let again = Instant::now() + REPEAT;
            while let Some(event) = self.event(again).await? {
                match event {
                    Event::Asks(asker) if self.is_router(asker, gateway) => {
                        asked += 1;
                        if !(self.trial.is_live)()
                            && let Some(answer) = self.speech.answer(asker, mac)
                        {
                            self.tell(&answer);
                        }
                    }
                    Event::Reply(got, to) if got == number && to == mac => {
                        return Ok(GatewayAnswer::Accepts);
                    }
                    Event::Reply(got, to) if got == number => elsewhere = Some(to),
                    Event::Asks(_) | Event::Reply(..) | Event::Here(_) => {}
                }
            }
        }
        // Announcement and answers come in frames from this host's MAC.
        let is_source = |to| to == self.trial.link.mac;
        // Of an earlier trial, or cluster: it takes that one, and not this.
        let is_kept = |to: MacAddr| {
            let mode = MacMode::of(to, self.trial.link.addresses.vip());
            mac.is_multicast() && mode.is_some() && !to.is_multicast()
        };
        Ok(match (asked, elsewhere) {
            (_, Some(to)) if is_source(to) => GatewayAnswer::LearnsSource,
            (0, Some(to)) if is_kept(to) => GatewayAnswer::Refuses,
            (0, Some(_)) => GatewayAnswer::Elsewhere,
            (0, None) => GatewayAnswer::NeverAsks,
            (1, None) => GatewayAnswer::Lost,
            (_, None | Some(_)) => GatewayAnswer::Refuses,
        })
    }

    /// Does the gateway ask? Routers that share an address (VRRP, HSRP) ask from their own address and MAC,
    /// and of IPv6 many from a link-local one; so whoever had not asked before will be it.
    fn is_router(&self, asker: Asker, gateway: MacAddr) -> bool {
        asker.address == self.trial.gateway
            || asker.mac == gateway
            || !self.others.borrow().contains(&asker)
    }

    fn tell(&self, outgoing: &Outgoing) {
        self.has_told.set(true);
        self.send(outgoing);
    }

    fn send(&self, Outgoing { to, kind, packet }: &Outgoing) {
        self.sender.send(*to, *kind, packet);
    }

    /// The next thing that is said, or nothing until `end`.
    async fn event(&self, end: Instant) -> Result<Option<Event>> {
        let uninit = [MaybeUninit::uninit(); FRAME_MAX];
        let (mut neighbour, mut echo) = (uninit, uninit);
        let next = async {
            loop {
                let event = tokio::select! {
                    frame = self.neighbours.receive(&mut neighbour) => {
                        self.speech.read_neighbour(frame?)
                    }
                    frame = self.echoes.receive(&mut echo) => {
                        self.speech.read_echo(frame?, self.ident)
                    }
                };
                if let Some(event) = event {
                    return std::io::Result::Ok(event);
                }
            }
        };
        match timeout_at(end, next).await {
            Ok(event) => Ok(Some(event.context("listen to the gateway")?)),
            Err(_) => Ok(None),
        }
    }
}
