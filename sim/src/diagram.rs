//! One connection attempt over all hosts, as a space-time diagram: a column for the client and
//! each host, time downwards, a line for each thing that happens, with its reason.
//!
//! Reasons are those of the core: where the attempt stands on a host before an event there and after it.

mod reason;
mod standing;
pub mod svg;
pub mod text;

use std::time::Duration;

use clusterd::protocol::Instant;

use crate::checker::Violation;
use crate::judge::{self, Watch};
use crate::packet::{FlowId, Segment};
use crate::scenario::Scenario;
use crate::world::World;
use reason::Story;

/// So long after its end things may still happen to an attempt: late answers and their fate.
const AFTERMATH: Duration = Duration::from_millis(200);

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Something leaves.
    Sends,
    /// Something arrives.
    Gets,
    /// A SYN is accepted.
    Accepts,
    /// A SYN is dropped.
    Drops,
    /// Something does not arrive.
    Loses,
    /// Anything else.
    Happens,
}

/// What makes a message the same at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Tcp(Segment),
    /// Host, incarnation and number of a frame.
    Frame(u16, u64, u64),
}

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    /// When.
    pub at: Instant,
    /// The client is column 0, the first host column 1.
    pub column: usize,
    /// What kind of thing.
    pub mark: Mark,
    /// What happens and why.
    pub text: String,
    message: Option<Message>,
}

/// All about one attempt.
#[derive(Clone, Debug)]
pub struct Diagram {
    /// Which connection, from 0.
    pub connection: u32,
    /// Its flow.
    pub flow: FlowId,
    /// When its first SYN left.
    pub begin: Instant,
    /// Hosts of the scenario.
    pub hosts: usize,
    /// In order of time.
    pub lines: Vec<Line>,
    /// Messages, from one line to another.
    pub arrows: Vec<(usize, usize)>,
}

impl Diagram {
    /// Of a connection in a run of both acts, up to `until`.
    pub fn of(scenario: &Scenario, seed: u64, connection: u32, until: Instant) -> Self {
        let mut world = World::new(scenario, seed, Story::new(scenario, connection));
        // That it violates something is known; what it did until then is wanted.
        let _ = judge::acts(&mut world, scenario);
        Self::tell(scenario, world.record, Some(until))
    }

    /// Of a connection in a run, or `None` if there are fewer.
    pub fn explain(scenario: &Scenario, seed: u64, connection: u32) -> Option<Self> {
        let mut world = World::new(scenario, seed, Story::new(scenario, connection));
        world.run();
        let told = world.record.begin.is_some();
        told.then(|| Self::tell(scenario, world.record, None))
    }

    fn tell(scenario: &Scenario, story: Story<'_>, until: Option<Instant>) -> Self {
        let ended = story.ended.map(|ended| ended + AFTERMATH);
        let end = until.or(ended).unwrap_or(Instant(u64::MAX));
        let mut lines = story.lines;
        lines.retain(|line| line.at <= end);
        lines.sort_by_key(|line| line.at);
        let arrows = arrows(&lines);
        Self {
            connection: story.connection,
            flow: story.flow,
            begin: story.begin.unwrap_or_default(),
            hosts: scenario.hosts,
            lines,
            arrows,
        }
    }

    /// Heads of the columns.
    fn heads(&self) -> Vec<String> {
        let hosts = (1..=self.hosts).map(|host| format!("h{host}"));
        std::iter::once("client".to_owned()).chain(hosts).collect()
    }

    /// The time of a line since the first SYN, in microseconds.
    fn since_begin(&self, line: &Line) -> f64 {
        (line.at.0 as f64 - self.begin.0 as f64) / 1e3
    }

    fn title(&self) -> String {
        format!(
            "connection {}, {}: SYN at {:.6} s",
            self.connection,
            self.flow.key(),
            self.begin.0 as f64 / 1e9
        )
    }
}

/// Whatever arrives or is lost was sent by somebody else; of equal messages the first to leave arrives first.
fn arrows(lines: &[Line]) -> Vec<(usize, usize)> {
    let sent = |to: usize| {
        let line = &lines[to];
        line.message?;
        let same = |other: &&usize| lines[**other].message == line.message;
        let before: Vec<usize> = (0..to).collect();
        let sends =
            before.iter().filter(same).copied().filter(|&from| {
                lines[from].mark == Mark::Sends && lines[from].column != line.column
            });
        let sends: Vec<usize> = sends.collect();
        let here =
            |from: &&usize| arrives(lines[**from].mark) && lines[**from].column == line.column;
        let arrived = before.iter().filter(same).filter(here).count();
        sends.get(arrived).or(sends.last()).copied()
    };
    let ends = |to: &usize| arrives(lines[*to].mark);
    (0..lines.len()).filter(ends).filter_map(|to| Some((sent(to)?, to))).collect()
}

/// A message comes to an end here.
fn arrives(mark: Mark) -> bool {
    matches!(mark, Mark::Gets | Mark::Loses)
}

impl Watch for Story<'_> {
    fn violation(&self) -> Option<&Violation> {
        None
    }
}

/// Things that one may read aloud: `1.02ms`.
fn short(time: Duration) -> String {
    let micros = time.as_nanos() as f64 / 1e3;
    match micros {
        ..1e3 => format!("{micros:.1} us"),
        ..1e6 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Fault, FaultKind};

    #[test]
    fn a_connection_is_told_from_the_syn_to_the_end() {
        let scenario = Scenario { duration: Duration::from_millis(100), ..Scenario::default() };
        let diagram = Diagram::explain(&scenario, 1, 9).unwrap();
        let told = text::draw(&diagram);
        for words in ["SYN leaves", "rank 1 of 3", "accepted eagerly", "OWN", "chooses h", "served"]
        {
            assert!(told.contains(words), "{words}:\n{told}");
        }
        assert!(told.contains("owns it"), "the others give way:\n{told}");
        assert!(told.lines().all(|line| line.chars().count() <= 100), "100 columns:\n{told}");
        assert!(diagram.arrows.len() >= 3 + 2, "{:?}", diagram.arrows);
        let drawn = svg::draw(&diagram);
        assert_eq!(drawn.matches("<line class=\"message\"").count(), diagram.arrows.len());
        assert_eq!(drawn.matches("<circle").count(), diagram.lines.len());
    }

    #[test]
    fn there_is_no_diagram_of_a_connection_that_never_was() {
        let scenario = Scenario { duration: Duration::from_millis(1), ..Scenario::default() };
        assert!(Diagram::explain(&scenario, 1, 1_000_000).is_none());
    }

    #[test]
    fn what_is_lost_is_told_where_it_does_not_arrive() {
        let mut scenario = Scenario { duration: Duration::from_millis(200), ..Scenario::default() };
        scenario.claim_loss = crate::setting::Share(0.3);
        let explain = |connection| Diagram::explain(&scenario, 1, connection);
        let lost = (0..100).filter_map(explain).find(|diagram| {
            let end = |&(_, to): &(usize, usize)| diagram.lines[to].mark == Mark::Loses;
            diagram.arrows.iter().any(end)
        });
        let told = text::draw(&lost.unwrap());
        assert!(told.contains("--x") && told.contains("is lost on the way"), "{told}");
    }

    #[test]
    fn a_fault_is_told() {
        let at = Duration::from_millis(1_500);
        let scenario = Scenario {
            warm_up: at,
            duration: Duration::from_millis(10),
            faults: vec![Fault { at, kind: FaultKind::Kill(0) }],
            ..Scenario::default()
        };
        // Some connection's first host is the one that has just died: the next one goes on.
        let takes_over = (0..400).find_map(|connection| {
            let told = text::draw(&Diagram::explain(&scenario, 1, connection)?);
            told.contains("claimed and unopposed").then_some(told)
        });
        assert!(takes_over.is_some());
    }
}
