//! Connections one after the other from several threads, until told to stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::rig::{Lab, PORT, enter, wait_until};
use crate::sockets::{connect_from, hello};

/// Connections attempted at a time.
const THREADS: usize = 16;

/// One attempt to get an answer from the VIP.
pub struct Attempt {
    pub started: Instant,
    /// The host that answered.
    pub outcome: io::Result<String>,
}

pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<Attempt>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicUsize,
}

impl Load {
    pub fn start(lab: &Lab) -> Self {
        let shared = Arc::<Shared>::default();
        let path = format!("/run/netns/{}", lab.namespace("client"));
        let work = |_| {
            let (shared, path) = (Arc::clone(&shared), path.clone());
            thread::spawn(move || {
                enter(&path);
                generate(&shared)
            })
        };
        Self { threads: (0..THREADS).map(work).collect(), shared }
    }

    /// Waits until this many more connections have been answered.
    pub fn await_more(&self, count: usize) {
        let goal = self.shared.answered.load(Ordering::Relaxed) + count;
        wait_until("the load goes on", || self.shared.answered.load(Ordering::Relaxed) >= goal);
    }

    /// Ends the load; returns every attempt.
    pub fn finish(mut self) -> Vec<Attempt> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().flat_map(|thread| thread.join().expect("a client thread")).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A failed test still has threads in the lab that is about to go.
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn generate(shared: &Shared) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        let outcome = connect_from(0, PORT).and_then(|mut stream| hello(&mut stream));
        if outcome.is_ok() {
            shared.answered.fetch_add(1, Ordering::Relaxed);
        }
        attempts.push(Attempt { started, outcome });
    }
    attempts
}

/// The failures among attempts that started at or after `moment`; with those
/// before it, which a fault may cost, as the second number.
pub fn failures(attempts: &[Attempt], moment: Instant) -> (Vec<String>, usize) {
    let failed = attempts.iter().filter(|attempt| attempt.outcome.is_err());
    let (after, before): (Vec<_>, Vec<_>) = failed.partition(|attempt| attempt.started >= moment);
    let describe = |attempt: &&Attempt| {
        let since = attempt.started.duration_since(moment);
        format!("{since:?} later: {}", attempt.outcome.as_ref().expect_err("it failed"))
    };
    (after.iter().map(describe).collect(), before.len())
}

/// Attempts from `moment` on that this host answered.
pub fn share(attempts: &[Attempt], moment: Instant, host: usize) -> usize {
    let name = format!("h{host}");
    let answered = |attempt: &&Attempt| {
        attempt.started >= moment && attempt.outcome.as_ref().is_ok_and(|by| *by == name)
    };
    attempts.iter().filter(answered).count()
}
