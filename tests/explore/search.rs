//! Every state of a scope, tick by tick.
//!
//! A state's clock is part of it, so equal states are found at the same tick
//! and actor only: one layer at a time is kept and searched for them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use clusterd::protocol::{Listener, Node};

use crate::choices::Choices;
use crate::scope::{SPAN, Scope, Views, moment, node_id};
use crate::world::{
    Actor, Client, Course, Facts, Host, Pool, Property, Sometimes, World, all_links,
};

/// What an exploration has found.
pub struct Report {
    pub name: &'static str,
    pub states: usize,
    pub transitions: usize,
    /// Different ways through the scope.
    pub executions: f64,
    /// Ways end here: different final states.
    pub ends: usize,
    pub took: Duration,
    /// The earliest violation of each property, with the fewest deviations.
    pub broken: BTreeMap<Property, Vec<String>>,
    pub seen: BTreeSet<Sometimes>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, states, transitions, executions, ends, took, .. } = self;
        write!(
            f,
            "explore {name}: {states} states, {transitions} transitions, {executions:.3e} executions, \
             {ends} ends, {:.2} s; broken {:?}; seen {:?}",
            took.as_secs_f64(),
            self.broken.keys().collect::<Vec<_>>(),
            self.seen,
        )
    }
}

/// How a state was reached first, or with the fewest deviations.
struct Way {
    from: u32,
    choices: Box<[u8]>,
}

struct Reached {
    world: World,
    way: u32,
    cost: u32,
    executions: f64,
}

#[derive(Default)]
struct Layer {
    places: HashMap<u128, usize>,
    reached: Vec<Reached>,
}

struct Violation {
    when: u64,
    cost: u32,
    way: u32,
    last: Box<[u8]>,
}

struct Search<'a> {
    scope: &'a Scope,
    ways: Vec<Way>,
    layers: BTreeMap<(u64, Actor), Layer>,
    violations: BTreeMap<Property, Violation>,
    pool: Pool,
    report: Report,
}

/// Explores all of `scope`.
pub fn explore(scope: &Scope) -> Report {
    let began = Clock::now();
    let start = warm_up(scope);
    let mut search = Search {
        scope,
        ways: vec![Way { from: 0, choices: [].into() }],
        layers: BTreeMap::new(),
        violations: BTreeMap::new(),
        pool: Pool::default(),
        report: Report {
            name: scope.name,
            states: 0,
            transitions: 0,
            executions: 0.0,
            ends: 0,
            took: Duration::ZERO,
            broken: BTreeMap::new(),
            seen: BTreeSet::new(),
        },
    };
    let root = Reached { world: start.clone(), way: 0, cost: 0, executions: 1.0 };
    search.leave(&root, World::connect);
    while let Some((_, layer)) = search.layers.pop_first() {
        for reached in &layer.reached {
            search.leave(reached, World::step);
        }
    }
    let Search { ways, violations, mut report, .. } = search;
    report.broken = violations
        .into_iter()
        .map(|(property, violation)| (property, retell(scope, &start, &ways, &violation)))
        .collect();
    report.took = began.elapsed();
    report
}

impl Search<'_> {
    /// Takes every step that leads out of a state.
    fn leave(&mut self, from: &Reached, step: impl Fn(&mut World, &mut Course<'_>)) {
        self.report.states += 1;
        let mut pool = std::mem::take(&mut self.pool);
        let mut course = Course::new(self.scope, &mut pool);
        loop {
            let mut world = from.world.clone();
            step(&mut world, &mut course);
            self.report.transitions += 1;
            self.arrive(from, world, &mut course);
            course.broken.clear();
            if !course.choices.advance() {
                break;
            }
        }
        self.report.seen.append(&mut course.seen);
        self.pool = pool;
    }

    fn arrive(&mut self, from: &Reached, world: World, course: &mut Course<'_>) {
        let next = world.next();
        if next.is_none() {
            world.judge_end(course);
            self.report.executions += from.executions;
            self.report.ends += 1;
        }
        let cost = from.cost + course.choices.cost();
        for (property, _) in &course.broken {
            let known = self.violations.get(property);
            if known.is_none_or(|known| (world.now, cost) < (known.when, known.cost)) {
                let last = course.choices.taken().into();
                let violation = Violation { when: world.now, cost, way: from.way, last };
                self.violations.insert(*property, violation);
            }
        }
        let Some(next) = next else { return };
        let layer = self.layers.entry(next).or_default();
        let way = || Way { from: from.way, choices: course.choices.taken().into() };
        match layer.places.entry(world.fingerprint()) {
            Entry::Occupied(place) => {
                let known = &mut layer.reached[*place.get()];
                known.executions += from.executions;
                if cost < known.cost {
                    known.cost = cost;
                    self.ways[known.way as usize] = way();
                }
            }
            Entry::Vacant(place) => {
                place.insert(layer.reached.len());
                self.ways.push(way());
                let way = u32::try_from(self.ways.len() - 1).expect("memory ends before");
                let executions = from.executions;
                layer.reached.push(Reached { world, way, cost, executions });
            }
        }
    }
}

/// Goes the way of a violation once more and tells what happens.
fn retell(scope: &Scope, start: &World, ways: &[Way], violation: &Violation) -> Vec<String> {
    let mut steps = vec![violation.last.clone()];
    let mut at = violation.way as usize;
    while at != 0 {
        steps.push(ways[at].choices.clone());
        at = ways[at].from as usize;
    }
    let mut world = start.clone();
    let mut pool = Pool::default();
    let mut course = Course::new(scope, &mut pool);
    course.story = Some(vec![format!("  tick  who     what; {}", scope.name)]);
    for (index, choices) in steps.iter().rev().enumerate() {
        course.choices = Choices::again(choices);
        if index == 0 {
            world.connect(&mut course);
        } else {
            world.step(&mut course);
        }
    }
    if world.next().is_none() {
        world.judge_end(&mut course);
    }
    let story = course.story.unwrap_or_default();
    let relative = |line: String| match line.split_at_checked(6) {
        Some((tick, rest)) => match tick.trim().parse::<u64>() {
            Ok(tick) => format!("{:6}{rest}", tick - start.now),
            Err(_) => line,
        },
        None => line,
    };
    story.into_iter().map(relative).collect()
}

/// Hosts that have met by their own frames and believe of each other what the scope says.
fn warm_up(scope: &Scope) -> World {
    let mut world = World {
        now: 0,
        hosts: Vec::new(),
        flights: Vec::new(),
        client: Client::default(),
        facts: [Facts::default(); 2],
        losses: 0,
        doubles: 0,
        crashes: 0,
        pauses: 0,
        end: u64::from(u32::MAX),
    };
    let mut pool = Pool::default();
    let mut course = Course::new(scope, &mut pool);
    course.cut = match scope.views {
        Views::Strangers => all_links(scope.hosts),
        _ => Vec::new(),
    };
    let last = scope.hosts - 1;
    let early = if scope.views == Views::Fresh { last } else { scope.hosts };
    (0..early).for_each(|host| start(&mut world, &mut course, host));
    run(&mut world, &mut course, 2_600);
    for host in early..scope.hosts {
        start(&mut world, &mut course, host);
        run(&mut world, &mut course, 150);
    }
    if scope.views == Views::Unannounced {
        course.cut.push((0, 1));
    }
    if scope.listeners.iter().any(|&listener| listener != Listener::Ready) {
        for index in 0..scope.hosts {
            let host = world.hosts[index].as_deref().expect("nobody has crashed");
            let mut host = host.clone();
            host.listener = scope.listeners[index];
            host.node.handle_listener(moment(world.now), scope.service(), host.listener);
            world.put(index, Some(host), &mut course);
        }
        run(&mut world, &mut course, 600);
    }
    let deaf = match scope.views {
        Views::Settled | Views::Fresh | Views::Unannounced | Views::Strangers => None,
        Views::Unheard | Views::LongUnheard | Views::Ghost => Some(1),
    };
    if let Some(deaf) = deaf {
        course.cut.push((0, deaf));
        let believes = |world: &World| {
            let host = world.hosts[deaf].as_ref().expect("nobody has crashed");
            host.node.peers().any(|peer| peer == node_id(0))
        };
        while believes(&world) {
            run(&mut world, &mut course, 50);
        }
    }
    match scope.views {
        Views::Settled | Views::Fresh | Views::Unheard | Views::Unannounced | Views::Strangers => {}
        Views::LongUnheard => run(&mut world, &mut course, 600),
        Views::Ghost => world.put(0, None, &mut course),
    }
    world.losses = scope.losses;
    world.doubles = scope.doubles;
    world.crashes = scope.crashes;
    world.pauses = scope.pauses;
    world.end = world.now + SPAN;
    let sealed = world.hosts.clone();
    for (index, host) in sealed.into_iter().enumerate() {
        world.put(index, host.map(Arc::unwrap_or_clone), &mut course);
    }
    world
}

fn start(world: &mut World, course: &mut Course<'_>, index: usize) {
    let node = Node::new(course.scope.config(index), moment(world.now));
    world.hosts.push(None);
    world.put(index, Some(Host::new(node, Listener::Ready)), course);
}

/// Lets good days go by.
fn run(world: &mut World, course: &mut Course<'_>, ticks: u64) {
    let until = world.now + ticks;
    while world.next().is_some_and(|(at, _)| at <= until) {
        course.choices = Choices::default();
        world.step(course);
    }
    world.now = until;
}
