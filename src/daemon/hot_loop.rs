//! The hot loop: the only place where the protocol core meets the kernel.
//!
//! Each turn does things in this order, and each place has its reason:
//!
//! 1. frames;
//! 2. the log — the kernel's SYN-ACKs and the clients' wrong ACKs;
//! 3. held packets, which the core only notes;
//! 4. frames again, then timers, where the core decides — *drain before you
//!    decide* (spec 6.1): a claim that is already here must not lose to a SYN;
//! 5. outputs: verdicts leave in one send, and with it the kernel sends its
//!    SYN-ACKs before the call returns; these are read back at once; then what
//!    the kernel must know about flows of datagrams, in one transaction;
//! 6. one frame with everything the turn has to say.

mod inputs;
mod outputs;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{self, Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clusterd::flow::{FlowKey, Protocol, ServicePort};
use clusterd::protocol::{self, Instant, KernelShare, Listener, Load, Notice, Ticket, Vips};
use clusterd::recording::{Turn, Work};
use clusterd::wire::{self, DecodeError, Frame, KeyRing};
use tokio::sync::mpsc;

use super::core::Core;
use super::datagrams::Datagrams;
use super::directory::{Directory, QueueCounters, Shared, Snapshot, WireCounters};
use super::recorder::Recorder;
use crate::failure::Failure;
use crate::io::claim_socket::ClaimSocket;
use crate::io::cluster_mac::MacMode;
use crate::io::conntrack::Conntrack;
use crate::io::error::errno;
use crate::io::kernel_buckets::KernelBuckets;
use crate::io::link::Link;
use crate::io::nflog::Log;
use crate::io::nfqueue::{self, Queue};
use crate::io::poller::Poller;
use crate::io::realtime::{self, Realtime};
use crate::io::rules::Scope;
use crate::io::sock_diag::{Connection, SockDiag};

/// Packets that the kernel holds at most; more are dropped and counted.
const QUEUE_LENGTH: u32 = 8192;
/// Held packets and log entries taken in one step, so that none of them
/// starves the others.
const BUDGET: usize = 64;
/// Frames taken in one step: all that the socket's buffer may hold after a
/// pause, so that what the others have said meanwhile is known before a
/// decision, but not an endless flood.
const FRAMES_BUDGET: usize = 16_384;
/// How old the knowledge of a listener may be when a SYN for it is handled.
const LISTENER_AGE_MAX: Duration = Duration::from_millis(5);
/// Ports whose listener is remembered.
const LISTENERS_MAX: usize = 256;
/// A listener whose accept queue is filled to this share is busy.
const BUSY_SHARE: (u32, u32) = (3, 4);
/// For how long the kernel may answer datagrams without hearing from this thread: the others must
/// not have taken this host for dead by then ([`Timers::suspect`](clusterd::protocol::Timers)
/// after its last HELLO, which was at most 250 ms before).
const LEASE: Duration = Duration::from_millis(500);
const LEASE_INTERVAL: Duration = Duration::from_millis(100);
/// A turn that comes this late (T_stale) finds SYNs in the queue that are nobody's to answer.
const SLEPT: Duration = Duration::from_millis(500);
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);
const LOAD_INTERVAL: Duration = Duration::from_millis(100);

const STOP: u64 = 0;
const CLAIMS: u64 = 1;
const QUEUE: u64 = 2;
const LOG: u64 = 3;

/// The kernel interfaces of one cluster.
pub struct Kernel {
    claims: ClaimSocket,
    queue: Queue,
    log: Log,
    sockets: SockDiag,
    conntrack: Conntrack,
    buckets: KernelBuckets,
    datagrams: Datagrams,
    number: u16,
}

/// Queue numbers to try for the cluster that a virtual IP names: several daemons share
/// a host, and so do other programs with queues of their own.
pub fn queue_candidates(vip: IpAddr) -> [u16; 8] {
    // The last bytes, in which addresses of one segment differ.
    let [.., a, b] = match vip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let first = u16::from_be_bytes([a, b]).wrapping_mul(2) & 0x7ffe;
    std::array::from_fn(|try_| 0x4000 + ((first + 2 * try_ as u16) & 0x7ffe))
}

impl Kernel {
    /// Opens everything but changes nothing on the host.
    pub fn open(link: &Link, vips: &Vips, mac: MacMode) -> Result<Self> {
        let vip = vips.first();
        let claims = ClaimSocket::open(link, mac).context("open the claim socket")?;
        let mut sockets = SockDiag::open()?.on_interface(link.index);
        // Without the module a lookup finds nothing: no service, on any port.
        sockets.established(&[vip]).map_err(|error| {
            Failure::unavailable(&format!("{error}; the kernel needs inet_diag and tcp_diag"))
        })?;
        let conntrack = Conntrack::open()?;
        let buckets = KernelBuckets::open(vips)?;
        let datagrams = Datagrams::open(vips)?;
        for number in queue_candidates(vip) {
            let bound = Queue::bind(&[number, number + 1], QUEUE_LENGTH)
                .and_then(|queue| Ok((queue, Log::bind(number)?)));
            match bound {
                Ok((queue, log)) => {
                    return Ok(Self {
                        claims,
                        queue,
                        log,
                        sockets,
                        conntrack,
                        buckets,
                        datagrams,
                        number,
                    });
                }
                Err(error) if errno(&error) == Some(libc::EBUSY) => {}
                Err(error) => {
                    return Err(Failure::unavailable(&format!(
                        "{error}; the kernel needs nfnetlink_queue and nfnetlink_log"
                    )));
                }
            }
        }
        let tried = queue_candidates(vip).map(|number| number.to_string()).join(", ");
        Err(Failure::in_use(&format!("the queue numbers {tried} are all taken by other programs")))
    }

    /// Number of the queue for new attempts, and of the log group.
    pub fn queue_number(&self) -> u16 {
        self.number
    }

    /// Packets for which the queues had no room, as far as the kernel says.
    fn overflowed(&self) -> u64 {
        let dropped = nfqueue::overflows(&[self.number, self.number + 1]);
        dropped.map_or(0, |overflows| overflows.dropped()) + self.queue.counters.enobufs
    }
}

/// What [`Load`] is computed from: totals at one moment.
#[derive(Clone, Copy, Default)]
struct Measured {
    at: Instant,
    cpu: Duration,
    syns: u64,
    by_kernel: u64,
    overflowed: u64,
}

/// State of the loop.
pub struct HotLoop {
    node: Core,
    /// The host's clock at time 0 of this loop, if kernel time stamps are wanted.
    epoch: Option<Duration>,
    ring: KeyRing,
    vips: Vec<IpAddr>,
    kernel: Kernel,
    poller: Poller,
    started: time::Instant,
    /// When the listener of a port was looked at last.
    listeners: BTreeMap<ServicePort, Instant>,
    /// The frame read last, and the bytes of the one sent last: their memory is used again.
    heard: Frame,
    bytes: Vec<u8>,
    wire: WireCounters,
    /// The ports on which this host speaks, if not on all.
    scope: Option<Scope>,
    unexpected: u64,
    slept: u64,
    leftovers: u64,
    undestroyed: u64,
    unlogged: u64,
    directory: Directory,
    shared: Arc<Shared>,
    published: Instant,
    /// What the kernel may decide by itself, and with which installation of the rules it knows.
    share: KernelShare,
    shared_rules: u64,
    /// The protocol of which the kernel always decides by itself.
    divided: Option<Protocol>,
    /// When the kernel heard last that it may answer datagrams.
    leased: Option<Instant>,
    load: Measured,
    notices: mpsc::Sender<Notice>,
    /// Kept open: the poller watches it.
    _stopped: UnixStream,
}

impl HotLoop {
    /// A loop that ends when the other end of `stopped` closes. The rules let only ports in
    /// `scope` get here; of flows of the protocol `divided` the kernel decides by bucket.
    #[expect(clippy::too_many_arguments, reason = "the parts of the daemon meet here")]
    pub fn new(
        config: protocol::Config,
        ring: KeyRing,
        scope: Option<Scope>,
        divided: Option<Protocol>,
        kernel: Kernel,
        stopped: UnixStream,
        shared: Arc<Shared>,
        notices: mpsc::Sender<Notice>,
        recorder: Option<Recorder>,
    ) -> Result<Self> {
        let started = recorder.as_ref().map_or_else(time::Instant::now, |it| it.started);
        let poller = Poller::new()?;
        poller.add(&stopped, STOP)?;
        poller.add(&kernel.claims, CLAIMS)?;
        poller.add(&kernel.queue, QUEUE)?;
        poller.add(&kernel.log, LOG)?;
        Ok(Self {
            ring,
            vips: config.vips.all().collect(),
            node: Core::new(config, recorder),
            epoch: None,
            kernel,
            poller,
            started,
            listeners: BTreeMap::new(),
            heard: Frame::default(),
            bytes: Vec::new(),
            wire: WireCounters::default(),
            scope,
            unexpected: 0,
            slept: 0,
            leftovers: 0,
            undestroyed: 0,
            unlogged: 0,
            directory: Directory::default(),
            shared,
            published: Instant::default(),
            share: KernelShare::default(),
            shared_rules: 0,
            divided,
            leased: None,
            load: Measured::default(),
            notices,
            _stopped: stopped,
        })
    }

    /// Runs until told to stop; says goodbye to the cluster then.
    pub fn run(mut self, report: impl FnOnce(&Realtime)) -> Result<()> {
        report(&realtime::enter());
        for (client, service) in self.kernel.sockets.established(&self.vips)? {
            self.node.adopt(FlowKey::tcp(client, service));
        }
        // Others have taken them over, or will: no client of theirs decides who goes on.
        self.forget_datagrams(|_| true);
        // What it has taken to begin is no load that claims cause, and nobody has emptied the queue
        // meanwhile.
        self.load = self.measure(self.now())?;
        loop {
            let due = self.node.wait_until();
            let slept = self.now();
            let ready = self.poller.wait(Some(due.since(slept)))?;
            if self.node.is_recorded() {
                self.begin_turn(slept, ready.tokens().is_empty());
            }
            if ready.contains(STOP) {
                let frame = self.node.leave();
                self.kernel.claims.send(&wire::encode(&frame, &self.ring));
                self.node.turn_ends(self.now());
                return Ok(());
            }
            if self.now().since(due) >= SLEPT {
                self.hear()?;
                self.drop_backlog()?;
            }
            if ready.contains(CLAIMS) {
                self.hear()?;
            }
            let (began, mut read) = (self.begin(), 0);
            if ready.contains(LOG) {
                read += self.read_log()?;
            }
            if ready.contains(QUEUE) {
                read += self.read_queue(false)?;
            }
            self.worked(|turn| &mut turn.packets, read, began);
            let joined = self.node.joined();
            if self.node.poll_timeout() <= self.now() {
                self.hear()?;
                self.look_at_listeners();
                self.node.handle_timeout(self.now());
            }
            self.weigh_load()?;
            if self.shared.rules() != self.shared_rules {
                self.apply_share()?;
            }
            self.lease()?;
            // Who reads "ready" in the log finds the same in the status.
            self.publish(self.node.joined() != joined);
            self.carry_out()?;
            if self.node.is_recorded() {
                self.node.turn_ends(self.now());
            }
        }
    }

    fn begin_turn(&mut self, slept: Instant, timer: bool) {
        let now = self.now();
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.epoch = clock.checked_sub(now.since(Instant::default()));
        self.node.turn_begins(slept, now, timer);
    }

    /// The time, if it is to be known how long something takes.
    fn begin(&self) -> Option<Instant> {
        self.node.is_recorded().then(|| self.now())
    }

    /// So many things of a kind have been done since then.
    fn worked(&mut self, on: fn(&mut Turn) -> &mut Work, count: usize, began: Option<Instant>) {
        if let Some(began) = began {
            let now = self.now();
            self.node.worked(on, count, began, now);
        }
    }

    fn now(&self) -> Instant {
        Instant(self.started.elapsed().as_nanos() as u64)
    }

    fn measure(&mut self, now: Instant) -> Result<Measured> {
        let by_kernel = match self.kernel.buckets.decided() {
            Ok(count) => count,
            // The rules are not there, yet or for a moment.
            Err(error) if errno(&error) == Some(libc::ENOENT) => self.load.by_kernel,
            Err(error) => return Err(error).context("count SYNs"),
        };
        Ok(Measured {
            at: now,
            cpu: realtime::thread_time(),
            syns: self.node.counters().syns,
            by_kernel,
            overflowed: self.kernel.overflowed(),
        })
    }

    /// Says to the core how much there is to do, a few times a second.
    fn weigh_load(&mut self) -> Result<()> {
        let now = self.now();
        let window = now.since(self.load.at);
        if window < LOAD_INTERVAL {
            return Ok(());
        }
        let measured = self.measure(now)?;
        let before = std::mem::replace(&mut self.load, measured);
        if window >= SLEPT {
            // Nobody emptied the queue: that it was full says nothing about the load.
            return Ok(());
        }
        let busy = (measured.cpu - before.cpu).as_nanos() * 1000 / window.as_nanos().max(1);
        let load = Load {
            window,
            busy: busy.min(1000) as u16,
            overflowed: measured.overflowed.saturating_sub(before.overflowed),
            syns: (measured.syns - before.syns)
                + measured.by_kernel.saturating_sub(before.by_kernel),
        };
        self.node.handle_load(now, &load);
        Ok(())
    }

    fn publish(&mut self, at_once: bool) {
        let now = self.now();
        if !at_once && now.since(self.published) < PUBLISH_INTERVAL {
            return;
        }
        self.published = now;
        self.directory.expire(&self.shared, now);
        let (attempts, held) = self.node.load();
        let (slot, settle) = self.node.pace();
        self.shared.publish(Snapshot {
            node: self.node.id(),
            joined: self.node.joined(),
            peers: self.node.peers().map(|peer| peer.to_string()).collect(),
            hearing: self.node.hearing().collect(),
            by_hash: self.node.by_hash(),
            causes: self.node.causes().collect(),
            by_kernel: self.share.decide_syns,
            kernel_syns: self.load.by_kernel,
            slot_us: slot.as_micros() as u64,
            settle_us: settle.as_micros() as u64,
            roster: self.node.roster(now).collect(),
            attempts,
            held,
            protocol: *self.node.counters(),
            wire: WireCounters { unsent: self.kernel.claims.unsent, ..self.wire },
            queue: QueueCounters::new(self.kernel.queue.counters, self.unexpected, self.slept),
            log_overruns: self.kernel.log.enobufs,
            leftovers: self.leftovers,
            undestroyed: self.undestroyed,
            datagrams: self.kernel.datagrams.counters,
            unlogged: self.unlogged,
            unrecorded: self.node.unrecorded(),
        });
    }
}

impl WireCounters {
    fn count(&mut self, error: &DecodeError) {
        *match error {
            DecodeError::Truncated(_) => &mut self.truncated,
            DecodeError::TooLong(_) => &mut self.too_long,
            DecodeError::Magic(_) => &mut self.magic,
            DecodeError::Version { .. } => &mut self.version,
            DecodeError::Cluster(_) => &mut self.cluster,
            DecodeError::Tag => &mut self.tag,
            DecodeError::Entry { .. } | DecodeError::Trailing(_) => &mut self.malformed,
        } += 1;
    }
}

/// The state of a port's listener, or `None` if the kernel did not say: then
/// the state known before stays.
fn look_at(sockets: &mut SockDiag, service: ServicePort) -> Option<Listener> {
    let ServicePort { vip, port, .. } = service;
    if service.protocol == Protocol::Udp {
        // A full receive buffer loses datagrams on any host alike.
        let taken = sockets.takes_datagrams(vip, port).ok()?;
        return Some(if taken { Listener::Ready } else { Listener::Absent });
    }
    match sockets.listener(vip, port) {
        Ok(None) => Some(Listener::Absent),
        Ok(Some(listener)) => {
            let (share, whole) = BUSY_SHARE;
            // The queue takes one more than the backlog (`sk_acceptq_is_full`).
            let room = listener.backlog.saturating_add(1);
            let busy = listener.queued.saturating_mul(whole) >= room.saturating_mul(share);
            Some(if busy { Listener::Busy } else { Listener::Ready })
        }
        Err(_) => None,
    }
}

/// Removes what an earlier attempt over the same ports has left half open, which this host did not
/// get to remove when the client chose another one. False if a connection stands: that
/// the kernel must deal with (RFC 5961 4.2).
///
/// Its SYN must not get to the kernel: that would answer for the earlier attempt, and the RST by
/// which the client refuses this fits what connection tracking remembers of it *on every host*, so
/// that whoever has accepted the new attempt would drop all that follows.
fn remove_leftover(
    sockets: &mut SockDiag,
    conntrack: &mut Conntrack,
    flow: &FlowKey,
) -> io::Result<bool> {
    match sockets.connection(flow.client, flow.service)? {
        Connection::Open => return Ok(false),
        Connection::HalfOpen => drop(sockets.destroy_request(flow.client, flow.service)?),
        Connection::None => {}
    }
    conntrack.delete(flow)?;
    Ok(true)
}

/// A time by the host's clock as the loop counts, which has begun at `epoch`.
fn since(epoch: Duration, time: Option<Duration>) -> Option<Instant> {
    Some(Instant(time?.checked_sub(epoch)?.as_nanos() as u64))
}

fn pack(ticket: nfqueue::Ticket) -> Ticket {
    Ticket(u64::from(ticket.queue) << 32 | u64::from(ticket.id))
}

fn unpack(ticket: Ticket) -> nfqueue::Ticket {
    nfqueue::Ticket { queue: (ticket.0 >> 32) as u16, id: ticket.0 as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_packing() {
        let ticket = nfqueue::Ticket { queue: 0x4001, id: u32::MAX };
        assert_eq!(unpack(pack(ticket)), ticket);
    }

    #[test]
    fn queue_candidates_come_in_distinct_pairs() {
        let mut numbers: Vec<_> = queue_candidates([10, 0, 255, 255].into())
            .into_iter()
            .flat_map(|number| [number, number + 1])
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 16);
    }
}
