//! The verdict on a run: invariants after every event, and a second act in which everything is
//! healed and the cluster must work as at its beginning.
//!
//! The second act: no frame is lost any more, all claims reach everybody, all hosts run and
//! serve. Then all hosts must take part, rank each other and, unless they were told otherwise, not decide by
//! hash; new connections must be served (and answered by one host each where all decide by hash: of claims two may
//! cross); in the end no packet may be held.

use std::time::Duration;

use clusterd::protocol::Instant;

use crate::checker::{Checker, Invariant, Promises, Violation};
use crate::client::Outcome;
use crate::fault::FaultKind;
use crate::kernel::{IDLE, TIME_WAIT};
use crate::record::Record;
use crate::scenario::{Mode, Rule, Scenario};
use crate::world::World;

/// A violation ends a run, so it is looked for so often.
const SLICE: Duration = Duration::from_millis(250);
/// The first act goes on for so long after its last connection.
const COOL_DOWN: Duration = Duration::from_secs(3);
/// Within so long after the last pause all hosts must have joined and ranked each other.
const JOINS: Duration = Duration::from_secs(10);
/// A suspicion that comes then passes within so long.
const PASSES: Duration = Duration::from_secs(3);
/// Within so long they must not decide by hash any more: the longest time for which a cause that has gone
/// is not believed gone (640 s, spec 5.6), and that in which lost frames are forgotten.
const BELIEVES: Duration = Duration::from_secs(720);
/// Connections of the second act, and the time between two.
const CONNECTIONS: u32 = 20;
const EVERY: Duration = Duration::from_millis(300);
/// After so long a port is free again: even a client that had to say its SYN twice is done.
const REUSED: Duration = Duration::from_secs(6);
/// By then they must have been served.
const SERVED: Duration = Duration::from_secs(10);

/// What became of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// What was violated first.
    pub violation: Option<Violation>,
    /// Connections of both acts.
    pub connections: u64,
    /// Of these, answered by more than one host.
    pub answered_twice: u64,
    /// The same of the second act.
    pub answered_twice_healed: u64,
    /// Connections served.
    pub served: u64,
    /// Events of both acts.
    pub events: u64,
}

/// Runs a scenario through both acts, or to the first violation.
pub fn judge(scenario: &Scenario, seed: u64, promises: Promises) -> Judgement {
    let mut world = World::new(scenario, seed, Checker::new(scenario, promises));
    let (violation, healed_from) = acts(&mut world, scenario);
    let from = healed_from.unwrap_or(usize::MAX);
    let twice = |it: &&crate::world::Connection| it.answered.count_ones() > 1;
    let all = &world.connections;
    Judgement {
        violation,
        connections: all.len() as u64,
        answered_twice: all.iter().filter(twice).count() as u64,
        answered_twice_healed: all.iter().skip(from).filter(twice).count() as u64,
        served: all.iter().filter(|it| it.client.outcome == Outcome::Served).count() as u64,
        events: world.happened(),
    }
}

/// Takes notes of a run, and may find something that ends it.
pub trait Watch: Record {
    /// What was found first.
    fn violation(&self) -> Option<&Violation>;
}

impl Watch for Checker {
    fn violation(&self) -> Option<&Violation> {
        self.violation()
    }
}

/// Runs both acts. Returns what ended them, and the first connection of the second act.
pub fn acts<R: Watch>(
    world: &mut World<'_, R>,
    scenario: &Scenario,
) -> (Option<Violation>, Option<usize>) {
    let mut judge = Judge { world, scenario, healed_from: None };
    let violation = judge.acts().err();
    (violation, judge.healed_from)
}

struct Judge<'w, 'a, R> {
    world: &'w mut World<'a, R>,
    scenario: &'w Scenario,
    /// The first connection of the second act.
    healed_from: Option<usize>,
}

impl<R: Watch> Judge<'_, '_, R> {
    fn acts(&mut self) -> Result<(), Violation> {
        let Scenario { warm_up, duration, faults, rule, .. } = self.scenario;
        let last = faults.iter().map(|fault| fault.at).max().unwrap_or_default();
        let end = (*warm_up + *duration).max(last) + COOL_DOWN;
        self.run_until(Instant::default() + end)?;
        if *rule != Rule::Clusterd {
            return Ok(());
        }
        self.heal();
        self.come_together()?;
        self.serve()
    }

    fn run_until(&mut self, end: Instant) -> Result<(), Violation> {
        while self.world.now() < end {
            let next = (self.world.now() + SLICE).min(end);
            self.world.run_until(next);
            if let Some(violation) = self.world.record.violation() {
                return Err(violation.clone());
            }
        }
        Ok(())
    }

    fn heal(&mut self) {
        self.world.inflict(&FaultKind::Calm);
        self.world.inflict(&FaultKind::Heal);
        for host in 0..self.scenario.hosts {
            self.world.inflict(&FaultKind::Start(host));
            self.world.inflict(&FaultKind::Serve(host));
        }
    }

    /// The longest time for which a daemon may still be kept from running.
    fn longest_stop(&self) -> Duration {
        let stops = self.scenario.faults.iter().filter_map(|fault| match fault.kind {
            FaultKind::Stop(_, time) => Some(time),
            _ => None,
        });
        stops.max().unwrap_or_default()
    }

    fn come_together(&mut self) -> Result<(), Violation> {
        let joins = self.longest_stop() + JOINS;
        // Clients of the first act have given up by then, and their ports are free. So is
        // the room that half-open connections take, where there are no cookies beyond it.
        let half_open = match self.scenario.syn_cookies {
            true => Duration::ZERO,
            false => Duration::from_secs((1 << (self.scenario.syn_ack_retries + 1)) + 1),
        };
        // And where ports are used again, or services can be full, nobody remembers their earlier connections.
        let filled = self.scenario.ports.min(self.scenario.workers);
        let used_again = self.world.connections.len() >= filled;
        let last_word = self.scenario.patience;
        let forgotten = if used_again { last_word + TIME_WAIT.max(IDLE) } else { Duration::ZERO };
        let waits = [joins, self.scenario.patience, half_open, forgotten];
        let joins = self.world.now() + waits.into_iter().max().unwrap_or(joins);
        self.run_until(joins)?;
        // A wake-up with a heavy tail may just have made somebody suspect.
        let together = self.world.now() + PASSES;
        while let Some((host, what)) = self.apart() {
            if self.world.now() >= together {
                return Err(self.fails(Some(host), None, what));
            }
            let next = self.world.now() + SLICE;
            self.run_until(next)?;
        }
        let believes = self.world.now() + BELIEVES;
        while let Some(host) = self.by_hash() {
            if self.world.now() >= believes {
                let what =
                    format!("it still decides by hash {BELIEVES:?} after everything was healed");
                return Err(self.fails(Some(host), None, what));
            }
            let next = self.world.now() + Duration::from_secs(5);
            self.run_until(next)?;
        }
        Ok(())
    }

    /// Who has not joined or ranked all others.
    fn apart(&self) -> Option<(u16, String)> {
        let others = self.scenario.hosts - 1;
        self.world.hosts().find_map(|host| {
            let node = host.decider.node()?;
            let ranked = node.peers().count();
            let whole = node.joined() && ranked == others;
            let what = || {
                let joined = if node.joined() { "has joined" } else { "has not joined" };
                format!("it {joined} and ranks {ranked} of {others} others {JOINS:?} after everything was healed")
            };
            (!whole).then(|| (host.index() as u16, what()))
        })
    }

    fn by_hash(&self) -> Option<u16> {
        if self.scenario.mode != Mode::Auto {
            return None;
        }
        let by_hash =
            |host: &&crate::host::Host| host.decider.node().is_some_and(|node| node.by_hash());
        self.world.hosts().find(by_hash).map(|host| host.index() as u16)
    }

    /// New connections.
    fn serve(&mut self) -> Result<(), Violation> {
        let from = self.world.connections.len();
        self.healed_from = Some(from);
        let begin = self.world.now();
        let every = EVERY.max(REUSED / self.scenario.ports.min(100) as u32);
        for number in 0..CONNECTIONS {
            self.world.connect_at(begin + every * number);
        }
        self.run_until(begin + every * CONNECTIONS + SERVED)?;
        for number in from..self.world.connections.len() {
            let connection = &self.world.connections[number];
            let outcome = connection.client.outcome;
            let answers = connection.answered.count_ones();
            // A host that had something left of an earlier connection has used its try up on
            // that, and takes the next SYN for the first.
            let by_hash = self.scenario.mode == Mode::Hash && connection.client.syns == 1;
            let what = if outcome == Outcome::Reset && answers > 1 {
                // I2 says whether the guard should have kept it from that.
                continue;
            } else if outcome != Outcome::Served {
                format!("a new connection is {outcome:?} after everything was healed")
            } else if answers > 1 && by_hash {
                format!("{answers} hosts answer a new connection after everything was healed")
            } else {
                continue;
            };
            return Err(self.fails(None, Some(number), what));
        }
        let holder = self.world.hosts().find(|host| host.held() > 0);
        if let Some((host, held)) = holder.map(|host| (host.index() as u16, host.held())) {
            let what = format!("it holds {held} packets {SERVED:?} after the last connection");
            return Err(self.fails(Some(host), None, what));
        }
        Ok(())
    }

    fn fails(&self, host: Option<u16>, connection: Option<usize>, what: String) -> Violation {
        Violation {
            at: self.world.now(),
            invariant: Invariant::Convergence,
            host,
            flow: connection.map(|number| self.world.connections[number].client.flow),
            connection: connection.map(|number| number as u32),
            what,
        }
    }
}
