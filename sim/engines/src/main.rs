//! Events per second of event-driven engines on one processor: `engines [EVENTS]` runs both
//! workloads on each engine in turn, several times, and prints medians as JSON Lines.

mod workload;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clusterd::protocol::Instant as Time;
use clusterd_sim::engine::EventQueue;
use nexosim::model::{Context, Model, schedulable};
use nexosim::simulation::{Mailbox, SimInit};
use nexosim::time::MonotonicTime;
use serde::{Deserialize, Serialize};
use workload::{Event, Workload};

const ROUNDS: usize = 5;

type Engine = fn(Workload, usize, u64) -> Duration;

fn main() {
    let events = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().expect("events"));
    let engines: [(&str, Engine); 4] = [
        ("clusterd-sim", clusterd_sim),
        ("binary heap", binary_heap),
        ("nexosim", nexosim),
        ("desru", desru),
    ];
    let workloads: [(&str, usize, fn() -> Workload); 5] = [
        ("hold, 1 000 events", 1_000, Workload::hold),
        ("hold, 100 000 events", 100_000, Workload::hold),
        ("race, 3 hosts", 0, || Workload::race(3)),
        ("race, 16 hosts", 0, || Workload::race(16)),
        ("race, 64 hosts", 0, || Workload::race(64)),
    ];
    for (workload, held, make) in workloads {
        let mut times = vec![Vec::new(); engines.len()];
        for _ in 0..ROUNDS {
            for ((_, engine), times) in engines.iter().zip(&mut times) {
                times.push(engine(make(), held, events));
            }
        }
        for ((engine, _), times) in engines.iter().zip(&mut times) {
            times.sort();
            let rate = events as f64 / times[ROUNDS / 2].as_secs_f64();
            println!(
                r#"{{"workload": "{workload}", "engine": "{engine}", "events_per_s": {rate:.0}}}"#
            );
        }
    }
}

/// The simulator's own queue.
fn clusterd_sim(mut workload: Workload, held: usize, events: u64) -> Duration {
    let mut queue = EventQueue::default();
    for (delay, event) in workload.start(held) {
        queue.schedule(Time(delay), event);
    }
    let begun = Instant::now();
    while workload.happened < events {
        let Some((now, event)) = queue.pop_until(Time(u64::MAX)) else { break };
        workload.happen(event, |delay, event| queue.schedule(Time(now.0 + delay), event));
    }
    begun.elapsed()
}

/// What anybody would write first.
fn binary_heap(mut workload: Workload, held: usize, events: u64) -> Duration {
    /// An event, ordered by time and then by what was scheduled first.
    struct Due(u64, u64, Event);
    impl PartialEq for Due {
        fn eq(&self, other: &Self) -> bool {
            (self.0, self.1) == (other.0, other.1)
        }
    }
    impl Eq for Due {}
    impl PartialOrd for Due {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    impl Ord for Due {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            (self.0, self.1).cmp(&(other.0, other.1))
        }
    }
    let mut number = 0;
    let mut queue = BinaryHeap::new();
    for (delay, event) in workload.start(held) {
        number += 1;
        queue.push(Reverse(Due(delay, number, event)));
    }
    let begun = Instant::now();
    while workload.happened < events {
        let Some(Reverse(Due(now, _, event))) = queue.pop() else { break };
        workload.happen(event, |delay, event| {
            number += 1;
            queue.push(Reverse(Due(now + delay, number, event)));
        });
    }
    begun.elapsed()
}

/// One model that schedules its own inputs, on one thread.
fn nexosim(workload: Workload, held: usize, events: u64) -> Duration {
    #[derive(Serialize, Deserialize)]
    struct Run {
        #[serde(skip, default = "Workload::hold")]
        workload: Workload,
        held: usize,
        events: u64,
    }

    #[Model]
    impl Run {
        #[nexosim(init)]
        async fn init(&mut self, cx: &Context<Self>) {
            for (delay, event) in self.workload.start(self.held) {
                let delay = Duration::from_nanos(delay);
                cx.schedule_event(delay, schedulable!(Self::happen), event).expect("in the future");
            }
        }

        #[nexosim(schedulable)]
        async fn happen(&mut self, event: Event, cx: &Context<Self>) {
            // The end of a run: nothing follows any more.
            if self.workload.happened >= self.events {
                return;
            }
            self.workload.happen(event, |delay, event| {
                let delay = Duration::from_nanos(delay);
                cx.schedule_event(delay, schedulable!(Self::happen), event).expect("in the future");
            });
        }
    }

    let run = Run { workload, held, events };
    let mut simulation = SimInit::with_num_threads(1)
        .add_model(run, Mailbox::new(), "run")
        .init(MonotonicTime::EPOCH)
        .expect("a simulation");
    let begun = Instant::now();
    simulation.run().expect("a run");
    begun.elapsed()
}

/// An event of this engine is a boxed closure. Its log of all events is off as far as it can be.
fn desru(workload: Workload, held: usize, events: u64) -> Duration {
    type Shared = Rc<RefCell<Workload>>;

    fn closure(workload: Shared, at: f64, event: Event) -> ::desru::Event {
        let happen = move |scheduler: &mut ::desru::EventScheduler| {
            let now = scheduler.current_time;
            let shared = Rc::clone(&workload);
            workload.borrow_mut().happen(event, |delay, next| {
                scheduler.schedule(closure(Rc::clone(&shared), now + delay as f64, next));
            });
            None
        };
        ::desru::Event::new(at, Some(Box::new(happen)), None)
    }

    let workload = Rc::new(RefCell::new(workload));
    let mut scheduler = ::desru::EventScheduler::new();
    let start = workload.borrow_mut().start(held);
    for (delay, it) in start {
        scheduler.schedule(closure(Rc::clone(&workload), delay as f64, it));
    }
    let done = Rc::clone(&workload);
    let begun = Instant::now();
    let stop = move |_: &::desru::EventScheduler| done.borrow().happened >= events;
    scheduler.run(Box::new(stop), Some(Box::new(|_, _| false)));
    begun.elapsed()
}
