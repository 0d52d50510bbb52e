//! The least scenario that still fails: delta debugging of faults, then parameters at
//! their defaults, then fewer hosts, shorter, with fewer connections.

use std::time::Duration;

use crate::fault::Fault;
use crate::scenario::{Arrivals, PARAMETERS, Scenario};

/// Runs that one failure is worth.
const RUNS_MAX: u32 = 250;

/// Makes a scenario smaller for as long as it still `fails`.
pub fn shrink(scenario: &Scenario, fails: impl FnMut(&Scenario) -> bool) -> Scenario {
    let mut shrinking = Shrinking { least: scenario.clone(), fails, left: RUNS_MAX };
    loop {
        let before = shrinking.least.clone();
        shrinking.faults();
        shrinking.parameters();
        shrinking.hosts();
        shrinking.times();
        if shrinking.least == before || shrinking.left == 0 {
            return shrinking.least;
        }
    }
}

struct Shrinking<F> {
    least: Scenario,
    fails: F,
    left: u32,
}

impl<F: FnMut(&Scenario) -> bool> Shrinking<F> {
    /// Keeps a candidate if it is another one and fails, too.
    fn try_out(&mut self, candidate: Scenario) -> bool {
        if candidate == self.least || candidate.check().is_err() || self.left == 0 {
            return false;
        }
        self.left -= 1;
        let fails = (self.fails)(&candidate);
        if fails {
            self.least = candidate;
        }
        fails
    }

    /// Zeller's ddmin: leaves out halves, then quarters..., until no fault can be left out.
    fn faults(&mut self) {
        let mut size = self.least.faults.len();
        while size > 0 {
            let mut at = 0;
            while at < self.least.faults.len() {
                let mut candidate = self.least.clone();
                let end = (at + size).min(candidate.faults.len());
                candidate.faults.drain(at..end);
                if !self.try_out(candidate) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Back to their defaults: all, then those of one section, then each.
    fn parameters(&mut self) {
        let sections = PARAMETERS.iter().filter_map(|parameter| parameter.key.split_once('.'));
        let mut prefixes: Vec<String> =
            sections.map(|(section, _)| format!("{section}.")).collect();
        prefixes.dedup();
        prefixes.extend(PARAMETERS.iter().map(|parameter| parameter.key.to_owned()));
        for prefix in prefixes {
            let mut candidate = self.least.clone();
            let default = Scenario::default();
            for parameter in PARAMETERS.iter().filter(|it| it.key.starts_with(&prefix)) {
                // What says how long and how much is made smaller instead.
                let amount = parameter.key.starts_with("run.")
                    || matches!(parameter.key, "load.connections_per_second" | "cluster.hosts");
                let same = (parameter.show)(&candidate) == (parameter.show)(&default);
                // A default can be read: it is written by the same parameter.
                if !amount
                    && !same
                    && (parameter.set)(&mut candidate, &(parameter.show)(&default)).is_err()
                {
                    return;
                }
            }
            self.try_out(candidate);
        }
    }

    fn hosts(&mut self) {
        while self.least.hosts > 1 {
            let mut candidate = self.least.clone();
            candidate.hosts -= 1;
            if !self.try_out(candidate) {
                return;
            }
        }
    }

    fn times(&mut self) {
        let fewer: [fn(&mut Scenario); 4] = [
            |it| it.duration = halved(it.duration),
            |it| it.connections_per_second = (it.connections_per_second / 2.0).max(1.0),
            |it| {
                if it.arrivals == Arrivals::Bursts {
                    it.burst = (it.burst / 2).max(1);
                }
            },
            |it| it.faults.iter_mut().for_each(earlier),
        ];
        for make_less in fewer {
            loop {
                let mut candidate = self.least.clone();
                make_less(&mut candidate);
                if !self.try_out(candidate) {
                    break;
                }
            }
        }
    }
}

/// A whole number of milliseconds, at least one.
fn halved(time: Duration) -> Duration {
    Duration::from_millis((time.as_millis() as u64 / 2).max(1))
}

/// Whole seconds are easier to read.
fn earlier(fault: &mut Fault) {
    let whole = Duration::from_secs(fault.at.as_secs());
    fault.at = if fault.at > whole { whole } else { fault.at };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;
    use crate::setting::Share;

    #[test]
    fn what_does_not_matter_goes() {
        let fault = |at, kind| Fault { at: Duration::from_millis(at), kind };
        let scenario = Scenario {
            hosts: 6,
            loss: Share(0.05),
            claim_loss: Share(0.1),
            duplication: Share(0.01),
            duration: Duration::from_secs(8),
            faults: vec![
                fault(2_100, FaultKind::Kill(0)),
                fault(2_500, FaultKind::Mute(3)),
                fault(3_300, FaultKind::Part(vec![1, 2])),
                fault(4_000, FaultKind::Deaf(1)),
                fault(5_000, FaultKind::Heal),
            ],
            ..Scenario::default()
        };
        // Made up: two faults of five, one loss of three and four hosts make it fail.
        let mut runs = 0;
        let mut fails = |it: &Scenario| {
            runs += 1;
            let has = |kind: FaultKind| it.faults.iter().any(|fault| fault.kind == kind);
            has(FaultKind::Mute(3))
                && has(FaultKind::Deaf(1))
                && it.claim_loss.0 > 0.0
                && it.duration >= Duration::from_secs(1)
        };
        assert!(fails(&scenario));
        let least = shrink(&scenario, &mut fails);
        assert!(fails(&least));
        let expected = Scenario {
            hosts: 4,
            claim_loss: Share(0.1),
            duration: Duration::from_secs(1),
            connections_per_second: 1.0,
            faults: vec![fault(2_000, FaultKind::Mute(3)), fault(4_000, FaultKind::Deaf(1))],
            ..Scenario::default()
        };
        assert_eq!(least, expected);
        assert!(runs < RUNS_MAX, "{runs} runs");
    }
}
