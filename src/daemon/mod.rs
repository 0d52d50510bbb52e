//! The daemon: assembles the parts, and takes them down in reverse.
//!
//! Two threads. The *hot loop* ([`hot_loop`]) holds SYNs, hears and sends
//! claims, and decides; it runs under SCHED_FIFO where permitted and never
//! waits for anything but its own descriptors. The *main* thread answers ARP
//! or neighbour solicitations, logs, serves `clusterd status` and waits for signals, on tokio.

mod core;
mod datagrams;
mod directory;
mod hot_loop;
pub mod identity;
pub mod install;
mod keyfile;
mod recorder;
mod state;
mod strangers;

use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use clusterd::flow::{ClusterKey, Protocol};
use clusterd::protocol::{self, Member, Notice};
use clusterd::wire::KeyRing;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::cli::{ClusterArgs, MacArg, UdpArg};
use crate::control;
use crate::doctor::{attendant, auto};
use crate::failure::Failure;
use crate::io::cluster_mac::MacMode;
use crate::io::error::errno;
use crate::io::kmod::Module;
use crate::io::link::{Link, Links, require_packets_in_group_frames};
use crate::io::neighbours::Neighbours;
use crate::io::nft;
use crate::io::realtime::Realtime;
use crate::io::rules::{Guard, QueueBackend, Ruleset};
use crate::io::watch::Watch;
pub use directory::{Shared, Snapshot};
use hot_loop::{HotLoop, Kernel};
use install::ModuleShare;
use recorder::Recording;
use state::{State, StateFile};
use strangers::Strangers;

/// Notices that wait for the log; beyond it they are counted as unlogged.
const NOTICES_MAX: usize = 1024;
/// How often the ages of members are kept although none came or went.
const STATE_INTERVAL: Duration = Duration::from_secs(3600);

/// `clusterd rules`: what would be installed, as far as it is known without privilege.
pub fn print_rules(args: &ClusterArgs) -> Result<()> {
    let runtime = runtime()?;
    let vips = args.vips()?;
    let link = runtime.block_on(async { Links::open()?.find(&args.interface, &vips).await })?;
    let MacArg::Mode(mac) = args.mac else {
        return Err(Failure::config(
            "--mac auto is decided at the start, on the network; print the rules of one mode",
        ));
    };
    let queue = hot_loop::queue_candidates(vips.first())[0];
    let rules = ruleset(args, mac, link, queue, QueueBackend::Nft, module_share(args));
    print!("{}", rules.install());
    Ok(())
}

/// Runs until SIGTERM, SIGINT or SIGHUP; leaves nothing behind.
pub fn run(args: &ClusterArgs) -> Result<()> {
    runtime()?.block_on(serve(args))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")
}

/// What the kernel module does, if it is loaded.
fn module_share(args: &ClusterArgs) -> Option<ModuleShare> {
    let module = Module::find().unwrap_or_else(|error| {
        warn!(%error, "doing without the kernel module");
        None
    })?;
    Some(ModuleShare { module, is_gate: args.guard == Guard::Strict })
}

fn ruleset(
    args: &ClusterArgs,
    mac: MacMode,
    link: Link,
    queue: u16,
    backend: QueueBackend,
    module: Option<ModuleShare>,
) -> Ruleset {
    Ruleset {
        link,
        mac,
        scope: args.ports.clone(),
        // Behind the gate connection tracking sees only what a client of this host says, so what
        // it calls ASSURED is right.
        guard: match module {
            Some(ModuleShare { is_gate: true, .. }) => Guard::Rst,
            _ => args.guard,
        },
        queue,
        backend,
    }
}

async fn serve(args: &ClusterArgs) -> Result<()> {
    let vips = args.vips()?;
    let vip = vips.first();
    // Signals first: whatever has been installed when one comes is removed.
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("watch SIGHUP")?;

    let links = Links::open()?;
    let link = links.find(&args.interface, &vips).await?;
    identity::require_capabilities()?;
    let condition = links.condition(&link.name).await?.context("the interface was removed")?;
    if let Some(master) = condition.port_of {
        warn!(%vip, "{}", master.require_frames(&link.name, vip)?);
    }
    let has_queue = nft::has_queue()?;
    let mac = match args.mac {
        MacArg::Mode(mac) => mac,
        // Nothing is installed yet.
        MacArg::Auto => tokio::select! {
            mode = auto::choose(&links, &link) => mode?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        },
    };
    match mac {
        MacMode::Multicast | MacMode::Igmp => require_packets_in_group_frames(&link)?,
        MacMode::Stealth if !nft::has_ingress()? => {
            return Err(Failure::unavailable(
                "--mac stealth needs nftables rules at an interface's ingress, which this kernel lacks \
                 (CONFIG_NF_TABLES_NETDEV); use --mac multicast or igmp",
            ));
        }
        MacMode::Stealth => {}
        MacMode::Shared => install::require_own_mac(&links, &link, vip).await?,
    }
    install::require_no_other(&links, &vips).await?;
    let control = control::Server::bind(&vips, mac)?;
    if let Some(left) = install::left_behind(&links).await?.get(&vip) {
        info!(%vip, "taking over from a daemon that was killed");
        install::remove_other(&links, &link, mac, left).await?;
    }
    install::require_free(&links, &vips).await?;

    let neighbours =
        Neighbours::open(&link, mac).context("open the socket for ARP or neighbour discovery")?;
    let kernel = Kernel::open(&link, &vips, mac)?;
    let queue = kernel.queue_number();
    let backend = if has_queue { QueueBackend::Nft } else { QueueBackend::Xtables };
    let module = module_share(args);
    match module {
        None => {}
        Some(ModuleShare { is_gate: false, .. }) => {
            info!("the kernel module sets the packet type");
        }
        Some(ModuleShare { is_gate: true, .. }) => {
            info!("the kernel module sets the packet type and is the gate of guard strict");
        }
    }

    let public = ClusterKey::public(vip);
    let ring = match &args.key_file {
        Some(path) => KeyRing::with_secrets(public, keyfile::load(path)?, args.auth.into()),
        None => KeyRing::from(public),
    };
    let node = identity::node_id(link.mac);
    let state_file = (!args.no_state).then(|| StateFile::new(&args.state_dir, vip, node));
    let kept = state_file.as_ref().map(StateFile::load).transpose()?.unwrap_or_default();
    let incarnation = identity::incarnation(kept.incarnation);
    let config = protocol::Config {
        pacing: args.pacing.into(),
        mode: args.mode.into(),
        roster: kept.members(SystemTime::now()),
        timers: args.timers(),
        vips,
        ..protocol::Config::new(node, incarnation, vip)
    };
    let (recorder, writer) = match &args.record {
        Some(path) => {
            let (recorder, writer) =
                Recording::create(path, args.record_limit.bytes())?.start(&config)?;
            (Some(recorder), Some(writer))
        }
        None => (None, None),
    };
    let shared = Arc::new(Shared::new([queue, queue + 1]));
    let (notices, heard) = mpsc::channel(NOTICES_MAX);
    let (stop, stopped) = UnixStream::pair().context("make the stop signal")?;
    let (ended, mut end) = oneshot::channel();
    let divided = match args.udp {
        UdpArg::Claim => None,
        UdpArg::Hash => Some(Protocol::Udp),
    };
    let hot_loop = HotLoop::new(
        config,
        ring,
        args.ports.clone(),
        divided,
        kernel,
        stopped,
        Arc::clone(&shared),
        notices,
        recorder,
    )?;
    thread::Builder::new()
        .name("hot-loop".to_owned())
        .spawn(move || drop(ended.send(hot_loop.run(warn_of_missing))))
        .context("start the hot loop")?;

    // The hot loop listens to the cluster while this asks the rest of the segment.
    if let Some(stranger) = neighbours.probe().await.context("probe for the virtual IPs")? {
        return Err(Failure::in_use(&strangers::refusal(stranger, &link, mac)));
    }
    let rules = ruleset(args, mac, link.clone(), queue, backend, module);
    let rules_watch = Watch::rules(vip)?;
    let address_watch = Watch::addresses()?;
    let installed = install::Installed::new(&links, &rules, module).await?;
    shared.rules_installed();
    if args.key_file.is_none() {
        warn!("no key: whoever is on this segment can disturb the cluster; see --key-file");
    }
    let outcome = async {
        neighbours.announce().context("announce the virtual IPs")?;
        tokio::select! {
            outcome = &mut end => outcome.unwrap_or_else(|_| Err(anyhow!("the hot loop panicked"))),
            outcome = answer_neighbours(&neighbours, &links, &link, mac) => outcome,
            outcome = installed.keep_rules(&rules_watch, &rules, &shared) => outcome,
            outcome = installed.keep_addresses(&address_watch) => outcome,
            outcome = installed.keep_reception(&rules) => outcome,
            () = log_notices(heard, vip) => Err(anyhow!("the hot loop ended")),
            never = watch_refusals(&shared) => match never {},
            never = attendant::attend(&link, mac) => match never {},
            never = keep_state(&shared, state_file.as_ref(), incarnation) => match never {},
            outcome = control.serve(&shared) => outcome,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            _ = hangup.recv() => Ok(()),
        }
    }
    .await;
    info!(%vip, "leaving");
    drop(stop);
    // Asked twice, the receiver panics, and what was installed would stay.
    let left = if end.is_terminated() { Ok(Ok(())) } else { end.await };
    installed.remove().await?;
    if let Some(writer) = writer {
        writer.finish();
    }
    // Why the hot loop ended says more than that it ended.
    left.unwrap_or(Ok(())).and(outcome)
}

/// Says which latency measures this host does not permit.
fn warn_of_missing(realtime: &Realtime) {
    for (what, outcome) in [
        ("SCHED_FIFO", &realtime.scheduler),
        ("locked memory", &realtime.memory),
        ("timer slack", &realtime.timer_slack),
    ] {
        if let Err(error) = outcome {
            warn!(%error, "running without {what}: slower under load");
        }
    }
}

/// Answers who asks for the virtual IPs as long as the interface exists.
async fn answer_neighbours(
    neighbours: &Neighbours,
    links: &Links,
    link: &Link,
    mode: MacMode,
) -> Result<()> {
    let mut strangers = Strangers::default();
    loop {
        match neighbours.answer().await {
            Ok(stranger) => strangers.heard(stranger, link, mode),
            Err(error) if errno(&error) == Some(libc::ENETDOWN) => {
                if !links.exists(link.index).await? {
                    return Err(Failure::unavailable("the interface was removed"));
                }
                warn!(vip = %link.addresses.vip(), "the interface is down");
            }
            Err(error) => return Err(error).context("answer who asks for the virtual IPs"),
        }
    }
}

/// Keeps the roster in its file: at once when a member comes or goes, else once an
/// hour, so that ages are known well enough.
async fn keep_state(
    shared: &Shared,
    file: Option<&StateFile>,
    incarnation: u64,
) -> std::convert::Infallible {
    let Some(file) = file else { return std::future::pending().await };
    // Nothing is kept yet, not even this incarnation.
    let mut kept: Option<(Vec<Member>, tokio::time::Instant)> = None;
    let mut complained = false;
    loop {
        let roster = shared.snapshot().roster;
        let is_kept = kept
            .as_ref()
            .is_some_and(|(kept, at)| same_members(kept, &roster) && at.elapsed() < STATE_INTERVAL);
        if !is_kept {
            let state = State::new(incarnation, &roster, SystemTime::now());
            // It is needed at the next start only: this one goes on without, and tries again.
            match file.save(&state) {
                Ok(()) => {
                    kept = Some((roster, tokio::time::Instant::now()));
                    complained = false;
                }
                Err(error) if !complained => {
                    complained = true;
                    warn!(%error, "cannot keep the members of the cluster; see --state-dir");
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// They are the same, and answer the same virtual IPs.
fn same_members(some: &[Member], others: &[Member]) -> bool {
    let same =
        |(one, other): (&Member, &Member)| (one.node, &one.vips) == (other.node, &other.vips);
    some.len() == others.len() && some.iter().zip(others).all(same)
}

/// Warns, once a minute at most, of frames under a key that this host does not believe.
async fn watch_refusals(shared: &Shared) -> std::convert::Infallible {
    let mut seen = 0;
    loop {
        let refused = shared.snapshot().wire.tag;
        if refused > seen {
            warn!(
                frames = refused - seen,
                "refused frames whose tag this host does not believe: another host has another key, \
                 or none; see --key-file and --auth"
            );
            seen = refused;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One line per state change. Ends when the hot loop does.
async fn log_notices(mut heard: mpsc::Receiver<Notice>, vip: IpAddr) {
    while let Some(notice) = heard.recv().await {
        match notice {
            Notice::Joined => info!(%vip, "ready"),
            Notice::PeerFound(peer) => info!(%peer, "peer found"),
            Notice::PeerRestarted(peer) => info!(%peer, "peer restarted"),
            Notice::PeerVerified(peer) => debug!(%peer, "peer hears this host"),
            Notice::PeerMode { node, hash } => {
                info!(peer = %node, "peer decides by {}", if hash { "hash" } else { "claims" });
            }
            Notice::PeerJoined(peer) => info!(%peer, "peer joined"),
            Notice::PeerLeft(peer) => info!(%peer, "peer left"),
            Notice::PeerSuspect(peer) => info!(%peer, "peer silent, not ranked"),
            Notice::PeerBack(peer) => info!(%peer, "peer back"),
            Notice::PeerLost(peer) => info!(%peer, "peer lost"),
            Notice::DuplicateNodeId { taken, new } => {
                warn!(%taken, %new, "another host uses this node's id, so this one takes a new one: \
                      same machine-id and MAC on two hosts?");
            }
            Notice::Fallback { cause, active, by_hash } => {
                let mode = if by_hash { "hash" } else { "claims" };
                match active {
                    true => warn!(?cause, "deciding by {mode}"),
                    false => info!(?cause, "over, deciding by {mode}"),
                }
            }
            Notice::ServiceUp(service) => info!(%service, "serving"),
            Notice::ServiceDown(service) => {
                info!(%service, "no listener any more, leaving it to the others");
            }
            // Whoever tries all ports must not fill the log.
            Notice::NotServed(service) => debug!(%service, "no listener, leaving it to the others"),
        }
    }
}
