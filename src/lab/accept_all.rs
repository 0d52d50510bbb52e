//! The floor of `lab bench`: the least a program can do that decides about every
//! new connection in user space.
//!
//! It reads one queue and accepts each SYN at once, on a thread scheduled like
//! the daemon's. Several hosts split the SYNs by a hash, so that each is accepted
//! by exactly one; the others look at it too, and drop it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;

use crate::io::nfqueue::{Packet, Queue, Verdict};
use crate::io::packet::{self, Segment};
use crate::io::poller::Poller;
use crate::io::realtime;

/// Packets that the kernel holds at most.
const QUEUE_LENGTH: u32 = 8192;
/// Packets decided in one turn.
const BUDGET: usize = 64;

/// Options of the reader.
#[derive(Clone, Copy, Debug, Args)]
pub struct AcceptAllArgs {
    /// Number of the queue
    #[arg(long)]
    pub queue: u16,
    /// Which host this is, from 0
    #[arg(long, default_value_t = 0)]
    pub host: u64,
    /// Number of hosts that split the connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub hosts: u64,
}

/// Decides until killed; says `ready` on stderr once it has the queue.
pub fn accept_all(args: &AcceptAllArgs) -> Result<()> {
    let AcceptAllArgs { queue, host, hosts } = *args;
    let queue = Queue::bind(&[queue], QUEUE_LENGTH)?;
    let reader = thread::Builder::new()
        .name("accept-all".into())
        .spawn(move || decide(queue, host, hosts))
        .context("start the reader")?;
    eprintln!("ready: accepts share {host} of {hosts}");
    reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn decide(mut queue: Queue, host: u64, hosts: u64) -> Result<()> {
    realtime::enter();
    let mut poller = Poller::new()?;
    poller.add(&queue, 0)?;
    let mut tickets = Vec::with_capacity(BUDGET);
    loop {
        poller.wait(None)?;
        queue.recv(BUDGET, |packet| {
            let mine = hosts == 1 || share(&packet, hosts) == Some(host);
            tickets.push((packet.ticket, if mine { Verdict::Accept } else { Verdict::Drop }));
        })?;
        for (ticket, verdict) in tickets.drain(..) {
            queue.verdict(ticket, verdict);
        }
        queue.flush()?;
    }
}

/// The host whose turn a SYN is, the same on all hosts.
fn share(packet: &Packet<'_>, hosts: u64) -> Option<u64> {
    let Some(Segment::Syn { flow, .. }) = packet::parse(packet.payload, packet.hook) else {
        return None;
    };
    let mut hasher = DefaultHasher::new();
    flow.hash(&mut hasher);
    Some(hasher.finish() % hosts)
}
