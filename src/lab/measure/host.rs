//! What the recording of one daemon says about times.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clusterd::flow::NodeId;
use clusterd::protocol::{Config, Instant, Output, Verdict};
use clusterd::recording::{Input, Reader, Record, Turn, Work};

use super::histogram::Histogram;

/// The times of one host while the load lasted. Times of day are since 1970.
#[derive(Debug)]
pub struct HostTimes {
    /// Its configuration.
    pub config: Config,
    /// From when a SYN that woke the daemon was in the queue to the beginning of its turn.
    pub wake: Histogram,
    /// From when a frame that woke the daemon had come to its interface to that.
    pub wake_by_frame: Histogram,
    /// From when the daemon wanted to be woken to the beginning of its turn.
    pub timer: Histogram,
    /// What the turns spent their time on.
    pub work: WorkDone,
    /// When each SYN arrived, by client and its sequence number.
    pub syns: BTreeMap<(SocketAddr, u32), Duration>,
    /// When the daemon let each SYN through, if it did, by client and sequence number.
    pub answers: BTreeMap<(SocketAddr, u32), Done>,
    /// When it sent each frame, by its number.
    pub sent: BTreeMap<u64, Done>,
    /// When each frame arrived and when the core was told, by sender and number.
    pub heard: Vec<Heard>,
}

/// Something that the daemon has done, alone of its kind in a turn.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// When it began.
    pub began: Duration,
    /// When the daemon went on.
    pub ended: Duration,
}

/// A frame of another host.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// The sender.
    pub node: NodeId,
    /// Its number.
    pub sequence: u64,
    /// When it arrived.
    pub arrived: Duration,
    /// When the core was told.
    pub read: Duration,
}

/// Sums of [`Work`].
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkDone {
    pub turns: u64,
    pub busy: Duration,
    pub frames: Work,
    pub packets: Work,
    pub drops: Work,
    pub accepts: Work,
    pub sent: Work,
}

impl WorkDone {
    /// With more of it.
    pub fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.busy += other.busy;
        for (sum, work) in self.each().into_iter().zip(other.clone().each()) {
            sum.add(work.count, Duration::from_nanos(work.took));
        }
    }

    fn each(&mut self) -> [&mut Work; 5] {
        let Self { turns: _, busy: _, frames, packets, drops, accepts, sent } = self;
        [frames, packets, drops, accepts, sent]
    }

    fn of(turn: &Turn) -> Self {
        let &Turn { woke, ended, frames, packets, drops, accepts, sent, .. } = turn;
        Self { turns: 1, busy: ended.since(woke), frames, packets, drops, accepts, sent }
    }
}

impl HostTimes {
    /// Reads a recording, and measures what happened within a span of time.
    pub fn read(path: &Path, span: &RangeInclusive<Duration>) -> Result<Self> {
        let what = || format!("read the recording {}", path.display());
        let file = File::open(path).with_context(what)?;
        let (header, mut reader) = Reader::open(BufReader::new(file)).with_context(what)?;
        let clock = |at: Instant| header.started + at.since(Instant::default());
        let mut times = Self {
            config: header.config.clone(),
            wake: Histogram::default(),
            wake_by_frame: Histogram::default(),
            timer: Histogram::default(),
            work: WorkDone::default(),
            syns: BTreeMap::new(),
            answers: BTreeMap::new(),
            sent: BTreeMap::new(),
            heard: Vec::new(),
        };
        // Of the turn that is being read.
        let (mut due, mut first) = (Instant::default(), None::<(Instant, bool)>);
        // SYNs that are held, and those let through in that turn.
        let (mut held, mut answered) = (BTreeMap::new(), Vec::new());
        let mut frames = Vec::new();
        while let Some(record) = reader.record().with_context(what)? {
            match record {
                Record::Wait(until) => due = until,
                Record::Input { at, arrived: Some(arrived), input } => {
                    if let Input::Syn(syn) = &input {
                        held.insert(syn.ticket, (syn.flow.client, syn.isn));
                    }
                    let this = (arrived, matches!(input, Input::Syn(_)));
                    first = Some(first.map_or(this, |first| first.min(this)));
                    if span.contains(&clock(arrived)) {
                        times.note_arrival(clock(at), clock(arrived), input);
                    }
                }
                Record::Send { at, frame: Some(frame) } => {
                    frames.push((frame.header.sequence, at));
                }
                Record::Output(output) => {
                    if let Output::Decide(ticket, verdict) = *output
                        && let Some(attempt) = held.remove(&ticket)
                        && verdict == Verdict::Accept
                    {
                        answered.push(attempt);
                    }
                }
                Record::Turn(turn) => {
                    let first = first.take();
                    // Of several only the first has not waited for another one.
                    let done = |began: Instant, work: Work| {
                        let began = clock(began);
                        Done { began, ended: began + Duration::from_nanos(work.took) }
                    };
                    if let (&[attempt], Some(began)) = (&answered[..], turn.answering) {
                        times.answers.insert(attempt, done(began, turn.accepts));
                    }
                    if let &[(sequence, began)] = &frames[..] {
                        times.sent.insert(sequence, done(began, turn.sent));
                    }
                    answered.clear();
                    frames.clear();
                    if span.contains(&clock(turn.woke)) {
                        times.work.add(&WorkDone::of(&turn));
                        times.measure(&turn, due, first);
                    }
                }
                Record::Input { arrived: None, .. }
                | Record::HasAccepted { .. }
                | Record::Send { frame: None, .. }
                | Record::Leave(_) => {}
            }
        }
        Ok(times)
    }

    fn note_arrival(&mut self, read: Duration, arrived: Duration, input: Input<'_>) {
        match input {
            Input::Syn(syn) => {
                // Only the first SYN of an attempt tells how long it was under way.
                self.syns.entry((syn.flow.client, syn.isn)).or_insert(arrived);
            }
            Input::Frame(frame) => {
                let (node, sequence) = (frame.header.node, frame.header.sequence);
                self.heard.push(Heard { node, sequence, arrived, read });
            }
            _ => {}
        }
    }

    fn measure(&mut self, turn: &Turn, due: Instant, first: Option<(Instant, bool)>) {
        match first {
            // What had come before it slept has not woken it.
            Some((first, by_syn)) if !turn.timer && first >= turn.slept => {
                let wake = if by_syn { &mut self.wake } else { &mut self.wake_by_frame };
                wake.add(turn.woke.since(first));
            }
            None if turn.timer && due > turn.slept => self.timer.add(turn.woke.since(due)),
            Some(_) | None => {}
        }
    }
}
