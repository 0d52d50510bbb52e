//! What a recorded run has measured, in files for the simulator.
//!
//! All namespaces share the clocks of one machine, so the way of a frame can be timed from end
//! to end: by the capture at the client, by the time stamps that the kernel takes when it gets
//! a frame, and by the recordings of the daemons.

mod files;
mod histogram;
mod host;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clusterd::flow::NodeId;
use clusterd::recording::Work;

use super::RunArgs;
use super::client::Attempt;
use super::faults::FaultKind;
use super::oracle::{Handshake, WireReport};
use super::topology::host_name;
use histogram::Histogram;
use host::{HostTimes, WorkDone};

/// A run that has been recorded.
#[derive(Debug)]
pub struct RecordedRun<'a> {
    /// What was asked for.
    pub args: &'a RunArgs,
    /// What the client's interface saw of each attempt.
    pub handshakes: &'a [Handshake],
    /// What the client's programs saw.
    pub attempts: &'a [Attempt],
    /// What the wire says.
    pub wire: &'a WireReport,
    /// What broke, and when, since 1970.
    pub faults: &'a [(FaultKind, usize, Duration)],
}

/// The delays and costs of which a connection's time is made up.
#[derive(Debug, Default)]
pub struct Components {
    /// From when a SYN was in the queue to the daemon's turn, if it slept.
    pub wake: Histogram,
    /// From when a frame had come to the interface to the daemon's turn, if it slept.
    pub wake_by_frame: Histogram,
    /// How much too late a timer woke the daemon.
    pub timer: Histogram,
    /// From the client's interface to the first host's kernel.
    pub access: Histogram,
    /// From the arrival of a frame for all at the first host to that at each.
    pub fabric: Histogram,
    /// From the moment that a daemon begins to let a SYN through to the SYN-ACK at the client's
    /// interface.
    pub answering: Histogram,
    /// From then until the daemon goes on.
    pub answer_rest: Histogram,
    /// From the moment that a daemon begins to send a frame to its arrival at the first host's
    /// interface. It gets to the sockets later, within the sender's system call.
    pub sending: Histogram,
    /// From the moment that a daemon begins to send a frame until another daemon reads it.
    pub one_way: Histogram,
    /// There and back, without the time in between.
    pub claim_round_trip: Histogram,
    /// From connect to the whole answer at the client's program.
    pub service: Histogram,
    /// What the daemons spent their time on.
    pub work: WorkDone,
    /// Of each host: how much later than at the first host SYNs arrive there, and its wake-ups.
    pub by_host: Vec<(Histogram, Histogram)>,
}

/// The file of a host's recording.
pub fn recording(directory: &Path, host: usize) -> std::path::PathBuf {
    directory.join(format!("{}.rec", host_name(host)))
}

/// Makes the directory of a recorded run, which must not hold another one.
pub fn make_directory(directory: &Path) -> Result<()> {
    std::fs::create_dir(directory).with_context(|| {
        format!("make the directory {} for a recorded run, which must be new", directory.display())
    })
}

/// Measures and writes the files. The recordings must be complete.
pub fn write(directory: &Path, run: &RecordedRun<'_>) -> Result<()> {
    let first = run.handshakes.first().context("no connection was attempted")?;
    let last = run.handshakes.last().unwrap_or(first);
    let span = first.opened..=last.opened;
    let hosts: Vec<HostTimes> = (0..run.args.cluster.nodes)
        .map(|host| HostTimes::read(&recording(directory, host), &span))
        .collect::<Result<_>>()?;
    let components = Components::of(run, &hosts);
    ensure!(
        components.wake.count() > 0 && components.access.count() > 0,
        "this kernel takes no time stamps of queued packets: nothing was measured"
    );
    files::write(directory, run, &hosts[0].config, &components)
}

impl Components {
    fn of(run: &RecordedRun<'_>, hosts: &[HostTimes]) -> Self {
        let mut all = Self::default();
        for host in hosts {
            all.wake.merge(&host.wake);
            all.wake_by_frame.merge(&host.wake_by_frame);
            all.timer.merge(&host.timer);
            all.work.add(&host.work);
            all.by_host.push((Histogram::default(), host.wake.clone()));
        }
        for handshake in run.handshakes {
            let key = (handshake.client, handshake.isn);
            let arrivals = || hosts.iter().map(|host| host.syns.get(&key).copied());
            let Some(first) = arrivals().flatten().min() else { continue };
            // Stamps are in microseconds, cut off.
            all.access.add(first.saturating_sub(handshake.opened));
            for (at, (skew, _)) in arrivals().zip(&mut all.by_host) {
                let Some(at) = at else { continue };
                skew.add(at - first);
            }
            if let Some((host, connect)) = handshake.connected
                && let Some(&done) = hosts.get(host).and_then(|host| host.answers.get(&key))
            {
                let connected = handshake.opened + connect;
                all.answering.add(connected.saturating_sub(done.began));
                all.answer_rest.add(done.ended.saturating_sub(connected));
            }
        }
        // What is the same each time is the host's, the rest is chance.
        let steady: Vec<Duration> = all.queueing();
        for handshake in run.handshakes {
            let key = (handshake.client, handshake.isn);
            let arrivals = || hosts.iter().map(|host| host.syns.get(&key).copied());
            let Some(first) = arrivals().flatten().min() else { continue };
            for (at, steady) in arrivals().zip(&steady) {
                if let Some(at) = at {
                    all.fabric.add((at - first).saturating_sub(*steady));
                }
            }
        }
        for attempt in run.attempts {
            if let (Some(connect), Ok(_)) = (attempt.connect, &attempt.outcome) {
                let exchange = attempt.ended.saturating_sub(attempt.started + connect);
                all.service.add(exchange);
            }
        }
        all.measure_frames(hosts);
        all
    }

    /// How much later than at the first host a SYN is in the queue of each, as a rule.
    pub fn queueing(&self) -> Vec<Duration> {
        let median = |(skew, _): &(Histogram, Histogram)| {
            Duration::from_nanos((skew.quantile_us(0.5) * 1e3) as u64)
        };
        let all: Vec<_> = self.by_host.iter().map(median).collect();
        let least = all.iter().min().copied().unwrap_or_default();
        all.into_iter().map(|skew| skew - least).collect()
    }

    fn measure_frames(&mut self, hosts: &[HostTimes]) {
        let place = |node: NodeId| hosts.iter().position(|host| host.config.node == node);
        // When each frame arrived first, by sender and number.
        let mut first: BTreeMap<(NodeId, u64), Duration> = BTreeMap::new();
        for heard in hosts.iter().flat_map(|host| &host.heard) {
            let at = first.entry((heard.node, heard.sequence)).or_insert(heard.arrived);
            *at = heard.arrived.min(*at);
        }
        for (&(node, sequence), &at) in &first {
            let sent = place(node).and_then(|sender| hosts[sender].sent.get(&sequence));
            if let Some(sent) = sent {
                self.sending.add(at.saturating_sub(sent.began));
            }
        }
        // The last way of a frame from one host to another, in time order of the receivers.
        let mut ways: Vec<(Duration, usize, usize, Duration)> = Vec::new();
        for (receiver, host) in hosts.iter().enumerate() {
            for heard in &host.heard {
                let Some(&at) = first.get(&(heard.node, heard.sequence)) else { continue };
                self.fabric.add(heard.arrived.saturating_sub(at));
                let Some(sender) = place(heard.node) else { continue };
                if let Some(sent) = hosts[sender].sent.get(&heard.sequence) {
                    let way = heard.read.saturating_sub(sent.began);
                    self.one_way.add(way);
                    ways.push((heard.read, sender, receiver, way));
                }
            }
        }
        ways.sort_unstable();
        let mut latest: BTreeMap<(usize, usize), Duration> = BTreeMap::new();
        for (_, sender, receiver, way) in ways {
            latest.insert((sender, receiver), way);
            if let Some(back) = latest.remove(&(receiver, sender)) {
                latest.remove(&(sender, receiver));
                self.claim_round_trip.add(way + back);
            }
        }
    }
}

/// The mean of what one of these takes, in nanoseconds.
fn each(work: Work) -> u64 {
    work.took.checked_div(u64::from(work.count)).unwrap_or(0)
}
