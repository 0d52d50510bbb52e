//! A service that works on all its connections at once: processor sharing.
//!
//! Each gets an equal part of the host's capacity, but never more than one unit per second: a
//! connection is served by one processor at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use clusterd::protocol::Instant;

use crate::chance::after;
use crate::packet::FlowId;

/// The service of one host.
#[derive(Debug)]
pub struct Service {
    /// Units of work per second.
    speed: f64,
    /// Work that a connection has got since the start if it was there all the time, in
    /// nanoseconds at one unit per second.
    level: f64,
    /// When that was computed.
    at: Instant,
    /// At which level who is done.
    jobs: BinaryHeap<Reverse<(u64, FlowId)>>,
    /// Predictions made earlier are void.
    epoch: u32,
}

impl Service {
    /// A service with nothing to do.
    pub fn new(speed: f64) -> Self {
        Self { speed, level: 0.0, at: Instant::default(), jobs: BinaryHeap::new(), epoch: 0 }
    }

    /// Connections that it works on.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// What each connection gets, in units per second.
    fn pace(&self) -> f64 {
        (self.speed / self.jobs.len().max(1) as f64).min(1.0)
    }

    fn advance(&mut self, now: Instant) {
        self.level += now.since(self.at).as_nanos() as f64 * self.pace();
        self.at = now;
    }

    /// More work: so many nanoseconds at one unit per second.
    pub fn add(&mut self, now: Instant, flow: FlowId, work: u64) {
        self.advance(now);
        self.jobs.push(Reverse((self.level as u64 + work, flow)));
    }

    /// When the next connection is done if nothing comes between, and the epoch of that
    /// prediction.
    pub fn predict(&mut self, now: Instant) -> Option<(Instant, u32)> {
        self.advance(now);
        let &Reverse((level, _)) = self.jobs.peek()?;
        self.epoch += 1;
        let left = (level as f64 - self.level).max(0.0) / self.pace();
        Some((after(now, left.ceil() as u64), self.epoch))
    }

    /// Who is done when a prediction comes true; nobody if it is void.
    pub fn finish(&mut self, now: Instant, epoch: u32) -> Option<FlowId> {
        if epoch != self.epoch {
            return None;
        }
        self.advance(now);
        self.jobs.pop().map(|Reverse((_, flow))| flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs until all is done; says when who was.
    fn run(speed: f64, jobs: &[(u64, u64)]) -> Vec<(u64, u32)> {
        let mut service = Service::new(speed);
        let mut done = Vec::new();
        let mut jobs: Vec<_> = jobs.iter().zip(0..).collect();
        let mut next = None;
        loop {
            match (jobs.first(), next) {
                (Some(&(&(at, work), flow)), due)
                    if due.is_none_or(|(then, _)| Instant(at) < then) =>
                {
                    jobs.remove(0);
                    service.add(Instant(at), FlowId(flow), work);
                    next = service.predict(Instant(at));
                }
                (_, Some((at, epoch))) => {
                    done.extend(service.finish(at, epoch).map(|flow| (at.0, flow.0)));
                    next = service.predict(at);
                }
                (_, None) => return done,
            }
        }
    }

    #[test]
    fn work_shares_the_processor() {
        // Alone at full speed; two share one processor; on two each has its own.
        assert_eq!(run(1.0, &[(0, 100)]), [(100, 0)]);
        assert_eq!(run(1.0, &[(0, 100), (0, 100)]), [(200, 0), (200, 1)]);
        assert_eq!(run(2.0, &[(0, 100), (0, 100)]), [(100, 0), (100, 1)]);
        // 50 alone, then 100 shared: the second has 50 left when the first is done.
        assert_eq!(run(1.0, &[(0, 100), (50, 100)]), [(150, 0), (200, 1)]);
        assert_eq!(run(8.0, &[(0, 100)]), [(100, 0)], "one processor at a time");
    }
}
