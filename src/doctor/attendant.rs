//! The daemon's part: it answers doctors, one frame for each of theirs, no longer and not faster than some
//! per second whoever asks. It runs on the main thread; the hot loop knows nothing of it.

use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::modes::{ModeSet, PerMode};
use super::roster::Roster;
use super::wire::{Bulletin, Id, Probe, Role, Wants};
use crate::io::cluster_mac::MacMode;
use crate::io::doctor_socket::{Receiver, Sender, probe_payload};
use crate::io::link::Link;

/// The shortest time between two frames of one kind.
const PACE: Duration = Duration::from_millis(200);
/// How long after the last question of a doctor the daemon goes on listening for probes.
const ATTENTION: Duration = Duration::from_secs(5);
/// How long to wait after an error: the interface is down.
const RETRY: Duration = Duration::from_secs(1);
/// Longest frame that is looked at.
const FRAME_MAX: usize = 1024;

/// Answers doctors for as long as the daemon runs.
pub async fn attend(link: &Link, mode: MacMode) -> Infallible {
    let attendant = match Attendant::open(link, mode) {
        Ok(attendant) => attendant,
        Err(error) => {
            warn!(%error, "cannot listen to doctors; the cluster works without");
            return std::future::pending().await;
        }
    };
    loop {
        if let Err(error) = attendant.serve().await {
            debug!(%error, "lost sight of doctors");
            sleep(RETRY).await;
        }
    }
}

struct Attendant<'a> {
    link: &'a Link,
    vip: IpAddr,
    mode: MacMode,
    id: Id,
    bulletins: Receiver,
    sender: Sender,
}

/// What is known while a doctor is there.
struct Visit {
    roster: Roster,
    sent: PerMode<u16>,
    next_bulletin: Instant,
    next_probe: Instant,
    until: Instant,
}

impl<'a> Attendant<'a> {
    fn open(link: &'a Link, mode: MacMode) -> io::Result<Self> {
        Ok(Self {
            link,
            vip: link.addresses.vip(),
            mode,
            id: Id(rand::random()),
            bulletins: Receiver::bulletins(link)?,
            sender: Sender::open(link)?,
        })
    }

    /// Waits for a doctor and attends to it until it is gone.
    async fn serve(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); FRAME_MAX];
        let mut packet = [MaybeUninit::uninit(); FRAME_MAX];
        let first = loop {
            let bulletin = self.question(self.bulletins.receive(&mut buffer).await?);
            if let Some(bulletin) = bulletin.filter(|it| it.role != Role::Daemon) {
                break bulletin;
            }
        };
        // Only now: a socket for IP packets costs the host a little for each of them.
        let probes = Receiver::probes(self.link, self.vip, [])?;
        let now = Instant::now();
        let mut visit = Visit {
            roster: Roster::default(),
            sent: PerMode::default(),
            next_bulletin: now,
            next_probe: now,
            until: now,
        };
        self.hear(&mut visit, first);
        loop {
            tokio::select! {
                bytes = self.bulletins.receive(&mut buffer) => {
                    if let Some(bulletin) = self.question(bytes?) {
                        self.hear(&mut visit, bulletin);
                    }
                }
                bytes = probes.receive(&mut packet) => {
                    if let Some(probe) = probe_payload(bytes?).and_then(Probe::decode) {
                        visit.roster.probe(probe);
                    }
                }
                () = sleep_until(visit.until) => return Ok(()),
            }
        }
    }

    fn question(&self, bytes: &[u8]) -> Option<Bulletin> {
        Bulletin::decode(bytes).filter(|it| it.vip == self.vip && it.id != self.id)
    }

    fn hear(&self, visit: &mut Visit, bulletin: Bulletin) {
        let (now, role, wants) = (Instant::now(), bulletin.role, bulletin.wants);
        visit.roster.bulletin(bulletin);
        match role {
            // Daemons do not answer each other, or they would never stop.
            Role::Daemon => return,
            Role::Doctor | Role::Starting => visit.until = now + ATTENTION,
        }
        match wants {
            Wants::Bulletin if now >= visit.next_bulletin => {
                visit.next_bulletin = now + PACE;
                self.sender.bulletin(&self.bulletin(visit).encode());
            }
            Wants::Probe if now >= visit.next_probe => {
                visit.next_probe = now + PACE;
                let sequence = visit.sent[self.mode].wrapping_add(1);
                visit.sent[self.mode] = sequence;
                self.sender
                    .probe(self.mode, &Probe { id: self.id, mode: self.mode, sequence }.encode());
            }
            Wants::Bulletin | Wants::Probe | Wants::Nothing => {}
        }
    }

    fn bulletin(&self, visit: &Visit) -> Bulletin {
        Bulletin {
            id: self.id,
            role: Role::Daemon,
            wants: Wants::Nothing,
            vip: self.vip,
            address: self.link.addresses.own(),
            modes: ModeSet::of(&[self.mode]),
            choice: Some(self.mode),
            sent: visit.sent,
            router: None,
            gateway: PerMode::default(),
            heard: visit.roster.heard(),
        }
    }
}
