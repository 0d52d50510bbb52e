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

    /// The defaults with these settings, and a fault.
    fn scenario(settings: &str, fault: Option<&str>) -> Scenario {
        let mut scenario = Scenario { duration: Duration::from_millis(100), ..Scenario::default() };
        for setting in settings.split_whitespace() {
            let (key, value) = setting.split_once('=').unwrap();
            scenario.set(key, value).unwrap();
        }
        scenario.faults = fault.into_iter().map(|fault| fault.parse().unwrap()).collect();
        scenario.check().unwrap();
        scenario
    }

    fn diagrams(scenario: &Scenario, connections: std::ops::Range<u32>) -> Vec<Diagram> {
        let all: Vec<_> = connections.filter_map(|it| Diagram::explain(scenario, 1, it)).collect();
        assert!(!all.is_empty());
        all
    }

    /// What is said of each host.
    fn hosts(diagram: &Diagram) -> impl Iterator<Item = Vec<&Line>> {
        let of = |host| diagram.lines.iter().filter(move |line| line.column == host).collect();
        (1..=diagram.hosts).map(of)
    }

    /// The word after these.
    fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
        let (_, rest) = text.split_once(words)?;
        rest.split([' ', ',', ':', ';', ')', '\'']).next()
    }

    /// No host says what it did not do: its rank is the one that it claims with, its turn has come when
    /// it accepts, and its SYN came when it says so.
    fn demand_no_contradiction(diagram: &Diagram) {
        let drawn = text::draw(diagram);
        for lines in hosts(diagram) {
            let (mut rank, mut turn, mut arrived) = (None, "", Vec::new());
            for Line { at, mark, text, .. } in lines {
                if text == "SYN arrives" {
                    arrived.push(*at);
                } else if text.contains("holds it: ") {
                    (rank, turn) = (after(text, "rank "), text);
                } else if text.contains("claims it, ") {
                    let next = text.starts_with("goes on without");
                    assert!(next || after(text, "rank ") == rank, "{drawn}");
                    rank = after(text, "rank ");
                } else if text.starts_with("says CLAIM") {
                    assert_eq!(after(text, "rank "), rank, "{drawn}");
                } else if text.starts_with("accepted eagerly") {
                    assert!(turn.ends_with("rank 1, its turn is at once"), "{drawn}");
                } else if text.starts_with("accepted by hash") {
                    assert!(turn.contains("its own try by hash"), "{drawn}");
                }
                if let (Mark::Accepts | Mark::Drops, Some((_, held))) =
                    (mark, text.split_once("held for "))
                {
                    let it = arrived.iter().position(|&since| short(at.since(since)) == held);
                    arrived.remove(it.unwrap_or_else(|| panic!("{text}:\n{drawn}")));
                }
            }
        }
    }

    #[test]
    fn a_connection_is_told_from_the_syn_to_the_end() {
        let diagram = Diagram::explain(&scenario("", None), 1, 9).unwrap();
        let told = text::draw(&diagram);
        for words in
            ["SYN leaves", "rank 1, its turn", "accepted eagerly", "OWN", "chooses h", "served"]
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
        assert!(Diagram::explain(&scenario("run.duration=1ms", None), 1, 1_000_000).is_none());
    }

    #[test]
    fn what_is_lost_is_told_and_drawn_where_it_does_not_arrive() {
        let scenario = scenario("network.claim_loss=0.3 cluster.mode=claim", None);
        let lost = |diagram: &Diagram| {
            let end = |&(_, to): &(usize, usize)| diagram.lines[to].mark == Mark::Loses;
            diagram.arrows.iter().filter(|arrow| end(arrow)).count()
        };
        let diagrams = diagrams(&scenario, 0..30);
        let diagram = diagrams.iter().find(|diagram| lost(diagram) > 0).unwrap();
        let told = text::draw(diagram);
        assert!(told.contains("--x") && told.contains("is lost on the way"), "{told}");
        let drawn = svg::draw(diagram);
        let crosses = diagram.lines.iter().filter(|line| line.mark == Mark::Loses).count();
        assert_eq!(drawn.matches("<line class=\"lost\"").count(), lost(diagram));
        assert_eq!(drawn.matches("<path class=\"Loses\"").count(), crosses);
        let messages = diagram.arrows.len() - lost(diagram);
        assert_eq!(drawn.matches("<line class=\"message\"").count(), messages);
    }

    #[test]
    fn who_still_counts_a_dead_host_says_so() {
        let settings = "run.duration=1s cluster.mode=claim \
                        load.connections_per_second=100";
        let scenario = scenario(settings, Some("2s kill h1"));
        let diagrams = diagrams(&scenario, 60..140);
        diagrams.iter().for_each(demand_no_contradiction);
        let claims_second = |diagram: &&Diagram| {
            let told = text::draw(diagram);
            !told.contains("rank 1") && told.contains("says CLAIM (try 0, rank 2)")
        };
        let diagram = diagrams.iter().find(claims_second).expect("the dead host was the first");
        assert!(text::draw(diagram).contains("accepted: claimed and unopposed"));
    }

    #[test]
    fn each_side_of_a_partition_tells_its_own_ranks() {
        let settings = "cluster.hosts=4 cluster.mode=claim run.duration=4s \
                        load.connections_per_second=20";
        let diagrams = diagrams(&scenario(settings, Some("2s part h1 h2")), 40..80);
        diagrams.iter().for_each(demand_no_contradiction);
        let twice =
            |diagram: &Diagram| text::draw(diagram).matches("accepted eagerly").count() == 2;
        assert!(diagrams.iter().any(twice), "the first host of each side answers");
    }

    #[test]
    fn a_host_that_hears_nobody_tells_that_the_try_is_its_own() {
        let diagrams = diagrams(&scenario("network.claim_loss=1", None), 5..20);
        diagrams.iter().for_each(demand_no_contradiction);
        assert!(text::draw(&diagrams[0]).matches("accepted by hash").count() > 1);
    }

    #[test]
    fn in_a_race_the_others_defer_to_the_best_claim() {
        let diagrams = diagrams(&scenario("cluster.pacing=race", None), 0..40);
        diagrams.iter().for_each(demand_no_contradiction);
        let mut crossed = 0;
        for diagram in &diagrams {
            let drawn = text::draw(diagram);
            assert!(!drawn.contains("rank 2"), "all claim as the first:\n{drawn}");
            let accepts = diagram.lines.iter().find(|line| line.mark == Mark::Accepts).unwrap();
            for lines in hosts(diagram) {
                let to = lines.iter().rev().find_map(|line| after(&line.text, "defers to "));
                let best = format!("h{}", accepts.column);
                assert!(to.is_none_or(|to| to == best), "{drawn}");
            }
            crossed += usize::from(drawn.matches("says CLAIM").count() > 1);
        }
        assert!(crossed > 0, "claims cross");
    }

    #[test]
    fn who_has_left_a_try_to_the_hash_does_not_defer() {
        let settings = "cluster.guard=gate network.claim_loss=0.4";
        let diagrams = diagrams(&scenario(settings, None), 0..40);
        diagrams.iter().for_each(demand_no_contradiction);
        let mut heard_later = 0;
        for diagram in &diagrams {
            for lines in hosts(diagram) {
                let mut left = false;
                for Line { text, .. } in lines {
                    left = text != "SYN arrives" && (left || text.starts_with("dropped: by hash"));
                    heard_later += usize::from(left && text.starts_with("CLAIM"));
                    assert!(!(left && text.contains("defers")), "{}", text::draw(diagram));
                }
            }
        }
        assert!(heard_later > 0, "nobody claims what another one leaves to the hash");
    }

    #[test]
    fn each_of_two_copies_is_held_for_its_own_time() {
        let diagrams = diagrams(&scenario("network.duplication=1", None), 5..20);
        diagrams.iter().for_each(demand_no_contradiction);
        let told: String = diagrams.iter().map(text::draw).collect();
        assert!(told.contains("dropped: a copy of the held one"), "{told}");
    }

    #[test]
    fn other_connections_with_these_ports_are_told_apart() {
        let settings = "client.ports=3 client.access=10ms network.loss=5%";
        let mut others = 0;
        for diagram in diagrams(&scenario(settings, None), 5..40) {
            for (index, Line { text, mark, column, .. }) in diagram.lines.iter().enumerate() {
                let of_another = text.contains("(of another connection");
                others += usize::from(of_another);
                if *mark == Mark::Gets && *column > 0 && text.starts_with("SYN arrives") {
                    // The client's SYN, which is drawn, or none of its.
                    let sent = diagram.arrows.iter().any(|arrow| arrow.1 == index);
                    assert_eq!(sent, !of_another, "{}", text::draw(&diagram));
                }
            }
        }
        assert!(others > 0, "ports are used again");
    }

    #[test]
    fn pauses_are_told_of_hosts_that_have_something_to_do() {
        let settings = "host.pauses_per_second=1000 network.loss=10%";
        let mut paused = 0;
        for diagram in diagrams(&scenario(settings, None), 0..40) {
            for lines in hosts(&diagram) {
                let pause = |line: &&&Line| line.text.starts_with("the daemon does not run");
                let first = lines.iter().position(|line| line.text == "SYN arrives");
                paused += lines.iter().filter(pause).count();
                let before = lines.iter().take(first.unwrap_or(lines.len()));
                assert_eq!(before.filter(pause).count(), 0, "{}", text::draw(&diagram));
            }
        }
        assert!(paused > 0, "daemons are paused while they hold SYNs");
    }

    #[test]
    fn an_end_has_the_name_that_it_has_elsewhere() {
        let scenario =
            scenario("network.loss=1 run.duration=40s load.connections_per_second=1", None);
        let told = text::draw(&Diagram::explain(&scenario, 1, 0).unwrap());
        assert!(told.contains("the client is done: timed_out"), "{told}");
    }
}
