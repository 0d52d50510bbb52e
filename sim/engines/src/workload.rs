//! What every engine has to do: the same events with the same work in them.
//!
//! `simpy_engine.py` has the same two workloads in Python; change both together.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Connections remembered at a time.
const REMEMBERED: usize = 1 << 16;
const MICROSECOND: f64 = 1e3;

/// Something that happens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Event {
    /// Hold: an event that does nothing but schedule the next.
    Held,
    /// Race: a client opens a connection.
    Arrival,
    /// Its SYN comes to a host.
    Syn { connection: u32, host: u8 },
    /// The host's turn comes.
    Turn { connection: u32, host: u8 },
    /// A claim of another host comes to it.
    Claim { connection: u32, host: u8 },
    /// The service is done.
    Served,
}

/// Takes an event to the events that follow it.
pub struct Workload {
    kind: Kind,
    chance: ChaCha8Rng,
    /// Events so far.
    pub happened: u64,
}

enum Kind {
    Hold,
    Race(Race),
}

/// The race for a connection, without all that makes it safe: hosts take turns by rank, the
/// first claims, who hears a claim before its turn is silent.
struct Race {
    hosts: u8,
    next: u32,
    /// Which hosts have heard a claim, by the last bits of the connection's number.
    heard: Vec<u64>,
}

impl Workload {
    /// As many events as there are at the start, for ever.
    pub fn hold() -> Self {
        Self::new(Kind::Hold)
    }

    pub fn race(hosts: u8) -> Self {
        Self::new(Kind::Race(Race { hosts, next: 0, heard: vec![0; REMEMBERED] }))
    }

    fn new(kind: Kind) -> Self {
        Self { kind, chance: ChaCha8Rng::seed_from_u64(1), happened: 0 }
    }

    /// What there is at the start, each after so many nanoseconds.
    pub fn start(&mut self, held: usize) -> Vec<(u64, Event)> {
        match self.kind {
            Kind::Hold => (0..held).map(|_| (self.exp(1e6), Event::Held)).collect(),
            Kind::Race(_) => vec![(1, Event::Arrival)],
        }
    }

    fn exp(&mut self, mean: f64) -> u64 {
        let unit: f64 = self.chance.random();
        // Never at once: some engines know no delay of nothing.
        (-(1.0 - unit).ln() * mean) as u64 + 1
    }

    /// Something happens; `schedule` takes what follows after how many nanoseconds.
    pub fn happen(&mut self, event: Event, mut schedule: impl FnMut(u64, Event)) {
        self.happened += 1;
        if let Kind::Hold = self.kind {
            schedule(self.exp(1e6), Event::Held);
            return;
        }
        let hosts = self.hosts();
        match event {
            Event::Held | Event::Served => {}
            Event::Arrival => {
                let connection = self.open();
                schedule(self.exp(1e6), Event::Arrival);
                for host in 0..hosts {
                    let late = self.exp(1.5 * MICROSECOND);
                    schedule(100_000 + late, Event::Syn { connection, host });
                }
            }
            Event::Syn { connection, host } => {
                let rank = (u32::from(host) + connection) % u32::from(hosts);
                let wake = self.exp(6.0 * MICROSECOND);
                schedule(u64::from(rank) * 1_000_000 + wake, Event::Turn { connection, host });
            }
            Event::Turn { connection, host } => {
                if *self.heard(connection) >> host & 1 == 1 {
                    return;
                }
                for other in (0..hosts).filter(|&other| other != host) {
                    let late = self.exp(6.0 * MICROSECOND);
                    schedule(5_000 + late, Event::Claim { connection, host: other });
                }
                schedule(self.exp(1e6), Event::Served);
            }
            Event::Claim { connection, host } => *self.heard(connection) |= 1 << host,
        }
    }

    fn hosts(&self) -> u8 {
        match &self.kind {
            Kind::Race(race) => race.hosts,
            Kind::Hold => 0,
        }
    }

    fn open(&mut self) -> u32 {
        let Kind::Race(race) = &mut self.kind else { return 0 };
        let connection = race.next;
        race.next += 1;
        race.heard[connection as usize % REMEMBERED] = 0;
        connection
    }

    fn heard(&mut self, connection: u32) -> &mut u64 {
        match &mut self.kind {
            Kind::Race(race) => &mut race.heard[connection as usize % REMEMBERED],
            Kind::Hold => unreachable!("nobody claims in the hold model"),
        }
    }
}
