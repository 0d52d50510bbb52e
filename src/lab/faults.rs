//! Faults: what breaks, where and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One fault to inject.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Index of the host.
    pub host: usize,
    /// What happens to it.
    pub kind: FaultKind,
    /// When it happens.
    pub when: When,
}

/// What happens to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The daemon gets SIGKILL; kernel and service live on.
    Kill,
    /// The whole host goes: its switch port first, then all its processes.
    LinkDown,
    /// The daemon gets SIGSTOP, and SIGCONT after this time.
    Pause(Duration),
}

/// When a fault happens, counted from the start of the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// After this time.
    Elapsed(Duration),
    /// Once this percentage of the connections has been started.
    Percent(f64),
}

/// A host and a time, `h2@50%` or `h2@1.5s`, as `--kill` and `--link-down` take it.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    host: usize,
    when: When,
}

/// A host, a time and a duration, `h2@30%:2s`, as `--pause` takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct PauseTarget {
    target: Target,
    length: Duration,
}

impl Target {
    /// This fault at this target.
    pub fn fault(&self, kind: FaultKind) -> Fault {
        Fault { host: self.host, kind, when: self.when }
    }
}

impl PauseTarget {
    /// The pause this stands for.
    pub fn fault(&self) -> Fault {
        self.target.fault(FaultKind::Pause(self.length))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, when) = text
            .split_once('@')
            .ok_or_else(|| format!("`{text}` has no time; write h2@50% or h2@2s"))?;
        let number: usize = host
            .strip_prefix('h')
            .and_then(|number| number.parse().ok())
            .filter(|&number| number >= 1)
            .ok_or_else(|| format!("`{host}` is not a host; hosts are h1, h2..."))?;
        Ok(Self { host: number - 1, when: when.parse()? })
    }
}

impl FromStr for PauseTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, length) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("`{text}` does not say for how long; write h2@30%:2s"))?;
        Ok(Self { target: target.parse()?, length: duration(length)? })
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.strip_suffix('%') else {
            return duration(text).map(When::Elapsed);
        };
        match number.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(When::Percent(percent)),
            _ => Err(format!("`{text}` is not between 0% and 100% of the connections")),
        }
    }
}

/// A duration without the spaces that would need quotes in a command line.
fn one_word(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("`{text}` is not a duration such as 2s or 1500ms ({error})"))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}@{}", self.host + 1, self.when)
    }
}

impl fmt::Display for PauseTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.target, one_word(self.length))
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Elapsed(after) => write!(f, "{}", one_word(*after)),
            When::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// The faults still to come.
///
/// Faults counted in connections come due by [`Schedule::milestones`], which the
/// load reports; the others, and the end of each pause, by the clock.
#[derive(Debug)]
pub struct Schedule {
    faults: Vec<Fault>,
    timed: BinaryHeap<Reverse<(Duration, Step)>>,
}

/// One step of the schedule; the number is that of the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The fault begins.
    Strike(usize),
    /// The pause ends.
    Resume(usize),
}

impl Schedule {
    /// A schedule of these faults.
    pub fn new(faults: Vec<Fault>) -> Self {
        let timed = faults
            .iter()
            .enumerate()
            .filter_map(|(number, fault)| match fault.when {
                When::Elapsed(after) => Some(Reverse((after, Step::Strike(number)))),
                When::Percent(_) => None,
            })
            .collect();
        Self { faults, timed }
    }

    /// The fault of this number.
    pub fn fault(&self, number: usize) -> &Fault {
        &self.faults[number]
    }

    /// For each fault counted in connections, the connection (from 0) whose
    /// start brings it on, and its number.
    pub fn milestones(&self, connections: u64) -> Vec<(u64, usize)> {
        let last = connections.saturating_sub(1);
        self.faults
            .iter()
            .enumerate()
            .filter_map(|(number, fault)| match fault.when {
                When::Percent(percent) => {
                    Some((((connections as f64 * percent / 100.0) as u64).min(last), number))
                }
                When::Elapsed(_) => None,
            })
            .collect()
    }

    /// Notes that a pause has begun, so that it will end.
    pub fn resume_at(&mut self, at: Duration, number: usize) {
        self.timed.push(Reverse((at, Step::Resume(number))));
    }

    /// When the next timed step is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.timed.peek().map(|Reverse((at, _))| *at)
    }

    /// The next step that is due at `now`, if any.
    pub fn pop_due(&mut self, now: Duration) -> Option<Step> {
        if self.next_due()? > now {
            return None;
        }
        self.timed.pop().map(|Reverse((_, step))| step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn targets() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target("h2@50%"), Ok(Target { host: 1, when: When::Percent(50.0) }));
        assert_eq!(
            target("h1@1s500ms"),
            Ok(Target { host: 0, when: When::Elapsed(SECOND * 3 / 2) })
        );
        assert_eq!(target("h1@1500ms").unwrap().to_string(), "h1@1s500ms");
        for text in ["h2", "h0@1s", "2@1s", "h2@", "h2@101%", "h2@-1%", "h2@5", "h@1s", "h2@nan%"] {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pauses() {
        let fault = "h3@30%:2s".parse::<PauseTarget>().unwrap().fault();
        assert_eq!(
            fault,
            Fault { host: 2, kind: FaultKind::Pause(2 * SECOND), when: When::Percent(30.0) }
        );
        for text in ["h3@30%", "h3:2s", "h3@30%:x"] {
            assert!(text.parse::<PauseTarget>().is_err(), "{text}");
        }
    }

    #[test]
    fn timed_steps_come_in_order_and_pauses_end() {
        let fault = |kind, when| Fault { host: 0, kind, when };
        let mut schedule = Schedule::new(vec![
            fault(FaultKind::Kill, When::Elapsed(2 * SECOND)),
            fault(FaultKind::Pause(SECOND), When::Elapsed(SECOND)),
            fault(FaultKind::Kill, When::Percent(50.0)),
        ]);
        assert_eq!(schedule.pop_due(SECOND / 2), None);
        assert_eq!(schedule.pop_due(SECOND), Some(Step::Strike(1)));
        schedule.resume_at(2 * SECOND, 1);
        assert_eq!(schedule.next_due(), Some(2 * SECOND));
        assert_eq!(schedule.pop_due(3 * SECOND), Some(Step::Strike(0)));
        assert_eq!(schedule.pop_due(3 * SECOND), Some(Step::Resume(1)));
        assert_eq!(schedule.pop_due(3 * SECOND), None);
    }

    #[test]
    fn every_percentage_names_a_connection_that_will_start() {
        let milestones = |percent, connections| {
            Schedule::new(vec![Fault {
                host: 0,
                kind: FaultKind::Kill,
                when: When::Percent(percent),
            }])
            .milestones(connections)
        };
        assert_eq!(milestones(50.0, 10_000), [(5_000, 0)]);
        assert_eq!(milestones(100.0, 10), [(9, 0)]);
        assert_eq!(milestones(0.0, 1), [(0, 0)]);
    }
}
