//! A swarm of scenarios: everything that can be drawn is drawn from one seed.
//!
//! Each class of faults and of parameters is left out as often as not (*swarm testing*, Groce 2012):
//! what is always there hides what only shows without it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::chance::{Chance, Entity};
use crate::checker::{Promises, Violation};
use crate::fault::{Fault, FaultKind};
use crate::judge::{Judgement, judge};
use crate::scenario::{
    Arrivals, Class, Closes, Conntrack, FirstWord, Guard, Medium, Mode, Pacing, Scenario,
    SynSchedule,
};
use crate::setting::{Rate, Setting, Share};
use crate::shrink::shrink;

/// A scenario, and the classes that were drawn for it.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// What is simulated.
    pub scenario: Scenario,
    /// Names of classes.
    pub classes: Vec<&'static str>,
}

/// What became of one seed.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The seed.
    pub seed: u64,
    /// What it stands for.
    pub drawn: Drawn,
    /// What became of it.
    pub judgement: Judgement,
    /// If it failed: the least scenario that does, and how.
    pub least: Option<(Scenario, Violation)>,
}

/// Draws the scenario of a seed, runs it, and shrinks it if it fails.
pub fn try_seed(seed: u64) -> Trial {
    try_drawn(seed, draw(seed), false)
}

/// The same with a scenario that was changed since; `regardless` demands I1 and I2 of any guard.
pub fn try_drawn(seed: u64, drawn: Drawn, regardless: bool) -> Trial {
    let run = |scenario: &Scenario| {
        let mut promises = Promises::of(scenario);
        promises.outcome |= regardless;
        judge(scenario, seed, promises)
    };
    let judgement = run(&drawn.scenario);
    let least = judgement.violation.as_ref().map(|violation| {
        let fails = |scenario: &Scenario| {
            run(scenario).violation.is_some_and(|it| it.invariant == violation.invariant)
        };
        let least = shrink(&drawn.scenario, fails);
        let how = run(&least).violation.unwrap_or_else(|| violation.clone());
        (least, how)
    });
    Trial { seed, drawn, judgement, least }
}

/// Sums over many trials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Seeds tried.
    pub seeds: u64,
    /// Of these, with a violation.
    pub failed: u64,
    /// Connections of both acts.
    pub connections: u64,
    /// Of these, served.
    pub served: u64,
    /// Of these, answered by more than one host.
    pub answered_twice: u64,
    /// The same of connections after everything was healed.
    pub answered_twice_healed: u64,
    /// Events.
    pub events: u64,
    /// How often each class was drawn.
    pub classes: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// One more trial.
    pub fn add(&mut self, trial: &Trial) {
        self.seeds += 1;
        self.failed += u64::from(trial.judgement.violation.is_some());
        let Judgement {
            violation: _,
            connections,
            answered_twice,
            answered_twice_healed,
            served,
            events,
        } = trial.judgement;
        self.connections += connections;
        self.served += served;
        self.answered_twice += answered_twice;
        self.answered_twice_healed += answered_twice_healed;
        self.events += events;
        for class in &trial.drawn.classes {
            *self.classes.entry(class).or_default() += 1;
        }
    }
}

/// Draws classes and their values.
struct Draw {
    chance: Chance,
    classes: Vec<&'static str>,
}

impl Draw {
    /// Half of all scenarios have it.
    fn class(&mut self, name: &'static str) -> bool {
        let drawn = self.chance.happens(0.5);
        if drawn {
            self.classes.push(name);
        }
        drawn
    }

    fn of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.chance.below(values.len() as u64) as usize].clone()
    }

    /// One of these, each as a class of its own.
    fn named<T: Clone>(&mut self, values: &[(&'static str, T)]) -> T {
        let (name, value) = self.of(values);
        self.classes.push(name);
        value
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.chance.below(most - least + 1))
    }

    fn share(&mut self, most: f64) -> Share {
        // Small ones are as likely as great ones; three digits are enough to read.
        let share = most * 10f64.powf(-3.0 * self.chance.unit());
        Share((share * 1e5).ceil() / 1e5)
    }
}

/// Draws the scenario of a seed.
pub fn draw(seed: u64) -> Drawn {
    let mut draw = Draw { chance: Chance::new(seed, Entity::Swarm), classes: Vec::new() };
    let mut scenario = Scenario {
        hosts: 2 + draw.chance.below(6) as usize,
        duration: draw.millis(500, 4_000),
        warm_up: Duration::from_millis(1_500),
        patience: Duration::from_secs(15),
        ..Scenario::default()
    };
    cluster(&mut draw, &mut scenario);
    network(&mut draw, &mut scenario);
    hosts(&mut draw, &mut scenario);
    clients(&mut draw, &mut scenario);
    faults(&mut draw, &mut scenario);
    machines(&mut draw, &mut scenario);
    Drawn { scenario, classes: draw.classes }
}

fn cluster(draw: &mut Draw, it: &mut Scenario) {
    it.guard = draw.named(&[
        ("guard rst", Guard::Rst),
        ("guard strict", Guard::Strict),
        ("guard gate", Guard::Gate),
    ]);
    it.pacing = draw.named(&[("pacing rank", Pacing::Rank), ("pacing race", Pacing::Race)]);
    it.mode = draw.named(&[
        ("mode auto", Mode::Auto),
        ("mode auto", Mode::Auto),
        ("mode claim", Mode::Claim),
        ("mode hash", Mode::Hash),
    ]);
    if draw.class("timers") {
        // The bounds of what an operator may give, and less (spec 7).
        it.slot = Duration::from_micros(draw.of(&[50, 200, 500, 2_000, 15_000]));
        it.settle = Duration::from_micros(draw.of(&[60, 250, 1_000, 5_000, 10_000]));
        it.slot_adapts = draw.chance.happens(0.5);
        it.settle_adapts = draw.chance.happens(0.5);
    }
}

fn network(draw: &mut Draw, it: &mut Scenario) {
    it.medium =
        draw.named(&[("switch", Medium::Switch), ("tree", Medium::Tree), ("hub", Medium::Hub)]);
    it.leaves = draw.of(&[2, 3, 4]);
    it.rate = Rate(match it.medium {
        Medium::Hub => draw.of(&[1e7, 1e8]),
        Medium::Switch | Medium::Tree => draw.of(&[1e8, 1e9, 1e10]),
    });
    if draw.class("loss") {
        it.loss = draw.share(0.1);
    }
    if draw.class("claim loss") {
        it.claim_loss = draw.share(0.6);
    }
    if draw.class("a bad cable") {
        // Of the first or the last host.
        let cable = [draw.share(0.3), Share(0.0)];
        let cable = if draw.chance.happens(0.5) { cable } else { [cable[1], cable[0]] };
        let cables = [
            &mut it.uplink_loss,
            &mut it.downlink_loss,
            &mut it.uplink_bursts,
            &mut it.downlink_bursts,
        ];
        *cables[draw.chance.below(4) as usize] = cable.to_vec();
    }
    if draw.class("burst loss") {
        it.burst_loss = draw.share(0.2);
        it.burst_mean = draw.of(&[2.0, 10.0, 50.0]);
    }
    if draw.class("duplication") {
        it.duplication = draw.share(0.2);
    }
    if draw.class("reordering") {
        it.reordering = draw.share(0.2);
        it.reordering_delay = delay(draw.of(&["exp 50us", "exp 500us", "uniform 0us 5ms"]));
    }
    if it.medium != Medium::Hub && draw.class("background") {
        it.background = Share(draw.of(&[0.1, 0.5, 0.8]));
    }
}

fn hosts(draw: &mut Draw, it: &mut Scenario) {
    if draw.class("wakes") {
        it.wake = delay(draw.of(&[
            "0",
            "exp 50us",
            "lognormal 6us 0.7 + 2% exp 2ms",
            "lognormal 100us 1",
            "1us + 5% pareto 1ms 2",
        ]));
        it.interrupt = delay(draw.of(&["0", "exp 1500ns + 1% exp 60us", "exp 20us"]));
        it.timer_error = delay(draw.of(&["0", "exp 2us", "exp 100us", "uniform 0us 1ms"]));
    }
    if draw.class("pauses") {
        it.pauses_per_second = draw.of(&[0.5, 5.0, 50.0]);
        it.pause = delay(draw.of(&["exp 2ms", "uniform 0us 30ms", "pareto 1ms 1.5"]));
    }
    if draw.class("scheduling classes") {
        it.classes = draw
            .of(&[
                [Class::Normal, Class::Fifo],
                [Class::Fifo, Class::Guest],
                [Class::Guest, Class::Normal],
            ])
            .to_vec();
    }
    if draw.class("small queues") {
        it.backlog = draw.of(&[8, 64]);
        it.syn_cookies = draw.chance.happens(0.7);
        it.workers = draw.of(&[16, 256]);
    }
    it.conntrack = draw.of(&[Conntrack::Since6_1, Conntrack::Before6_1]);
    it.service = delay(draw.of(&["exp 1ms", "100us", "exp 20ms"]));
}

fn clients(draw: &mut Draw, it: &mut Scenario) {
    it.first_word = draw.named(&[
        ("client speaks first", FirstWord::Client),
        ("server speaks first", FirstWord::Server),
    ]);
    it.closes = draw
        .named(&[("client closes first", Closes::Client), ("server closes first", Closes::Server)]);
    it.schedule = draw.of(&[SynSchedule::Linear, SynSchedule::Exponential]);
    it.access = delay(draw.of(&["20us", "100us", "exp 5ms", "uniform 10ms 50ms"]));
    it.arrivals = draw.of(&[Arrivals::Poisson, Arrivals::Regular, Arrivals::Bursts]);
    // A hub that has more to carry than it can delays frames for seconds.
    let rates: &[f64] = if it.rate.0 <= 1e7 { &[5.0, 30.0] } else { &[5.0, 30.0, 100.0, 300.0] };
    it.connections_per_second = draw.of(rates);
    it.burst = draw.of(&[2, 10, 50]);
    if draw.class("port reuse") {
        it.ports = draw.of(&[1, 3, 30, 300]);
    }
    if draw.class("clients start anew") {
        it.reboots = draw.share(0.3);
        it.reboot_after = delay(draw.of(&["exp 1ms", "exp 10ms", "uniform 0us 3s"]));
    }
    if draw.class("flood") {
        it.flood_per_second = draw.of(&[20.0, 200.0]);
    }
}

fn faults(draw: &mut Draw, it: &mut Scenario) {
    let from = it.warm_up.as_millis() as u64;
    let until = from + it.duration.as_millis() as u64;
    let count = draw.chance.below(7);
    let kinds = [
        draw.class("kills"),
        draw.class("stops"),
        draw.class("mute"),
        draw.class("deaf"),
        draw.class("partitions"),
        draw.class("services that end"),
    ];
    let kinds: Vec<usize> = (0..kinds.len()).filter(|&kind| kinds[kind]).collect();
    for _ in 0..count {
        if kinds.is_empty() {
            return;
        }
        let at = draw.millis(from, until);
        let later = at + draw.millis(1, 3_000);
        let host = draw.chance.below(it.hosts as u64) as usize;
        let ends = draw.chance.happens(0.7);
        let (kind, end) = match draw.of(&kinds) {
            0 => (FaultKind::Kill(host), FaultKind::Start(host)),
            1 => {
                let time = draw.of(&[1, 5, 30, 300, 600, 900, 2_500, 4_000]);
                (FaultKind::Stop(host, Duration::from_millis(time)), FaultKind::Heal)
            }
            2 => (FaultKind::Mute(host), FaultKind::Heal),
            3 => (FaultKind::Deaf(host), FaultKind::Heal),
            4 => {
                let mut side: Vec<usize> = (0..it.hosts).collect();
                side.retain(|_| draw.chance.happens(0.5));
                let side = if side.is_empty() { vec![host] } else { side };
                (FaultKind::Part(side), FaultKind::Heal)
            }
            _ => (FaultKind::Shut(host), FaultKind::Serve(host)),
        };
        let lasts = matches!(kind, FaultKind::Stop(..));
        it.faults.push(Fault { at, kind });
        if ends && !lasts {
            it.faults.push(Fault { at: later, kind: end });
        }
    }
    it.faults.sort_by_key(|fault| fault.at);
}

/// What hosts and wires are made of.
fn machines(draw: &mut Draw, it: &mut Scenario) {
    if draw.chance.happens(0.15) {
        draw.classes.push("many hosts");
        it.hosts = it.hosts.max(8 + draw.chance.below(9) as usize);
    }
    if draw.class("small sockets") {
        it.queue = draw.of(&[8, 64, 512]);
        it.inbox = draw.of(&[16, 64, 512]);
    }
    if draw.class("unequal hosts") {
        it.speeds = draw.of(&[[8.0, 2.0], [4.0, 8.0]]).to_vec();
    }
    if draw.class("slow daemons") {
        let mut cost = || Duration::from_nanos(draw.of(&[700, 5_000, 50_000]));
        it.frame_cost = cost();
        it.packet_cost = cost();
        it.verdict_cost = cost();
        it.answer_cost = cost();
        it.send_cost = cost();
        it.answer_rest = delay(draw.of(&["0", "exp 20us", "exp 500us"]));
        it.queueing = draw.of(&[[0, 40], [100, 0], [10, 10]]).map(Duration::from_micros).to_vec();
    }
    if draw.class("other wake-ups") {
        it.wake_normal = delay(draw.of(&["exp 50us", "lognormal 8us 0.8 + 5% exp 5ms"]));
        it.wake_guest = delay(draw.of(&["exp 1ms", "lognormal 15us 0.8 + 2% exp 20ms"]));
    }
    if draw.class("other wires") {
        it.propagation = Duration::from_nanos(draw.of(&[0, 1_000, 20_000]));
        it.fabric = delay(draw.of(&["0", "exp 50us", "lognormal 20us 1"]));
        it.buffer = draw.of(&[16_000, 64_000]);
    }
    // Without any a lost ACK of a client that waits for the first word is the end of it.
    it.syn_ack_retries = draw.of(&[1, 5]);
    it.patience = Duration::from_secs(draw.of(&[5, 15, 30]));
}

fn delay(text: &str) -> crate::delay::Delay {
    crate::delay::Delay::read(text).expect("what is drawn is well written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_one_scenario_that_a_file_can_hold() {
        for seed in 0..200 {
            let scenario = draw(seed).scenario;
            assert_eq!(scenario, draw(seed).scenario);
            assert_eq!(scenario.check(), Ok(()));
            let text = crate::file::write_changes(&scenario);
            assert_eq!(crate::file::parse(&text, "drawn").unwrap(), scenario, "{text}");
        }
    }

    #[test]
    fn every_class_is_drawn_and_left_out() {
        let mut totals = BTreeMap::new();
        for seed in 0..200 {
            draw(seed).classes.into_iter().for_each(|class| *totals.entry(class).or_insert(0) += 1);
        }
        assert_eq!(totals.len(), 42, "{totals:?}");
        for (class, times) in totals {
            assert!((10..190).contains(&times), "{class}: {times} of 200");
        }
    }
}
