//! `clusterd lab run`: raise, load, break, judge, report.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::RunArgs;
use super::capture::Listener;
use super::client::{self, Load, LoadEvent, LoadPlan};
use super::faults::{Fault, FaultKind, Schedule, Step};
use super::hosts::{daemon_command, service_command};
use super::measure::{self, RecordedRun};
use super::netns::Namespace;
use super::oracle::Oracle;
use super::process::{self, Process, Sign};
use super::report::{FaultOutcome, Outcome, Report};
use super::topology::{Plan, Topology, host_name};

/// How long a service or daemon may take to say that it is ready: on an emulated kernel that loads
/// a module for each kind of rule, one after the other.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the progress line is refreshed.
const PROGRESS: Duration = Duration::from_millis(200);
/// Longer than hosts are careful after a change of members (`Timers::quiet`).
const SETTLED: Duration = Duration::from_millis(300);
/// Exit code of a run ended by a signal, as shells have it for Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Everything the conductor can be told.
#[derive(Clone, Copy, Debug)]
enum Event {
    Process { host: usize, role: Role, sign: Sign },
    Load(LoadEvent),
    Interrupted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Service,
    Daemon,
}

/// Runs the lab. Must be called on the main thread, before there are others.
pub fn run(args: &RunArgs, faults: Vec<Fault>) -> Result<ExitCode> {
    let (sender, events) = mpsc::channel();
    let interrupt = sender.clone();
    process::on_interrupt(move || {
        interrupt.send(Event::Interrupted).ok();
    })?;
    process::raise_descriptor_limit();
    if let Some(directory) = &args.record {
        measure::make_directory(directory)?;
    }

    let topology = Topology::raise(&args.cluster.plan(), |_role| Namespace::unnamed())?;
    let mut run = Run {
        args,
        topology,
        hosts: Vec::with_capacity(args.cluster.nodes),
        events,
        sender,
        progress: std::io::stderr().is_terminal() && !args.verbose,
        strikes: vec![None; faults.len()],
        schedule: Schedule::new(faults),
        unexpected_exits: Vec::new(),
    };
    run.start_hosts()?;
    let outcome = run.load_and_judge()?;
    drop(run);
    let report = Report::new(args, &outcome);
    if args.json {
        println!("{}", serde_json::to_string(&report).context("write the report as JSON")?);
    } else {
        print!("{report}");
    }
    Ok(if outcome.interrupted {
        ExitCode::from(INTERRUPTED)
    } else if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A lab while it runs. Dropping it kills the hosts' processes, and with them
/// and the descriptors the namespaces go.
struct Run<'a> {
    args: &'a RunArgs,
    hosts: Vec<HostProcesses>,
    topology: Topology,
    events: Receiver<Event>,
    sender: Sender<Event>,
    progress: bool,
    schedule: Schedule,
    /// When each fault happened, since the start of the load.
    strikes: Vec<Option<Duration>>,
    unexpected_exits: Vec<String>,
}

struct HostProcesses {
    service: Process,
    daemon: Process,
}

impl HostProcesses {
    fn process(&mut self, role: Role) -> &mut Process {
        match role {
            Role::Service => &mut self.service,
            Role::Daemon => &mut self.daemon,
        }
    }
}

impl Run<'_> {
    fn start_hosts(&mut self) -> Result<()> {
        let mut services = Vec::new();
        for (index, namespace) in self.topology.hosts.iter().enumerate() {
            let command = service_command(namespace, index, self.args.cluster.family())?;
            services.push(self.start(index, Role::Service, command)?);
        }
        self.await_ready(Role::Service, &mut services)?;
        let mut daemons = Vec::new();
        for (index, namespace) in self.topology.hosts.iter().enumerate() {
            let record = self.args.record.as_deref().map(|it| measure::recording(it, index));
            let cluster = &self.args.cluster;
            let command = daemon_command(
                namespace,
                cluster.family(),
                &cluster.daemon,
                None,
                record.as_deref(),
            )?;
            daemons.push(self.start(index, Role::Daemon, command)?);
        }
        self.await_ready(Role::Daemon, &mut daemons)?;
        self.topology.lose_claims(self.args.cluster.claim_loss)?;
        self.hosts = services
            .into_iter()
            .zip(daemons)
            .map(|(service, daemon)| HostProcesses { service, daemon })
            .collect();
        Ok(())
    }

    fn start(&self, host: usize, role: Role, command: std::process::Command) -> Result<Process> {
        let name = match role {
            Role::Service => format!("{} service", host_name(host)),
            Role::Daemon => format!("{} daemon", host_name(host)),
        };
        let sender = self.sender.clone();
        Process::start(name, command, self.args.verbose, move |sign| {
            // Nobody listens any more once the run is over.
            sender.send(Event::Process { host, role, sign }).ok();
        })
    }

    /// Waits until every process of this role has said that it is ready.
    fn await_ready(&self, role: Role, processes: &mut [Process]) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut waiting = vec![true; processes.len()];
        while let Some(late) = waiting.iter().position(|&waiting| waiting) {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Process { host, role: of, sign }) => match sign {
                    Sign::Ready if of == role => waiting[host] = false,
                    Sign::Gone if of == role => bail!(processes[host].epitaph()?),
                    Sign::Gone => bail!("the service of {} ended unexpectedly", host_name(host)),
                    Sign::Ready => {}
                },
                Ok(Event::Interrupted) => bail!("interrupted before the load began"),
                Ok(Event::Load(_)) => {}
                Err(_) => bail!(
                    "{} is not ready after {READY_TIMEOUT:?}; see its log with --verbose",
                    processes[late].name()
                ),
            }
        }
        Ok(())
    }

    fn load_and_judge(&mut self) -> Result<Outcome> {
        let Plan { medium, client_addresses, family, .. } = self.args.cluster.plan();
        let sources: Vec<_> = family.client_addresses(medium, client_addresses).collect();
        let mode = self.args.cluster.daemon.mac;
        for &source in &sources {
            client::first_connection(&self.topology.client, source).map_err(
                |error| match medium.obstacle(mode) {
                    Some(obstacle) => {
                        error.context(format!("--mac {mode} cannot work here: {obstacle}"))
                    }
                    None => error,
                },
            )?;
        }
        if self.args.record.is_some() {
            // Hosts that have seen the others join are careful for a moment, and a simulated load
            // begins later than that, too.
            thread::sleep(SETTLED);
        }
        let oracle = Oracle::new(family.vip());
        let listener = Listener::start(&self.topology.client, oracle, self.args.pcap.clone())?;
        let plan = LoadPlan {
            connections: self.args.connections,
            concurrency: self.args.concurrency,
            starts: self.starts(),
            sources,
            milestones: self.schedule.milestones(self.args.connections),
        };
        let sender = self.sender.clone();
        let load = Load::start(plan, &self.topology.client, move |event| {
            sender.send(Event::Load(event)).ok();
        })?;
        let interrupted = self.conduct(&load)?;
        let took = load.epoch().elapsed();
        let attempts = load.attempts();
        let (oracle, frames_lost) = listener.finish()?;
        let wire = oracle.report(frames_lost);
        if let Some(directory) = &self.args.record {
            // A daemon's recording is complete when it has ended.
            self.hosts.iter_mut().try_for_each(|host| host.daemon.terminate())?;
            let handshakes = oracle.handshakes();
            let (handshakes, attempts, wire) = (&handshakes[..], &attempts[..], &wire);
            let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let begin = clock.saturating_sub(load.epoch().elapsed());
            let struck = self.strikes.iter().enumerate().filter_map(|(number, at)| {
                let fault = self.schedule.fault(number);
                Some((fault.kind, fault.host, begin + (*at)?))
            });
            let faults = &struck.collect::<Vec<_>>();
            let run = RecordedRun { args: self.args, handshakes, attempts, wire, faults };
            measure::write(directory, &run)?;
        }
        Ok(Outcome {
            syn_acks_by_host: (0..self.args.cluster.nodes)
                .map(|host| oracle.syn_acks_of(host))
                .collect(),
            wire,
            faults: self.fault_outcomes(),
            unexpected_exits: std::mem::take(&mut self.unexpected_exits),
            strange_failure: load.strange_failure().map(str::to_owned),
            attempts,
            took,
            interrupted,
        })
    }

    /// Injects faults and watches until the load is over; tells whether a signal cut it short.
    fn conduct(&mut self, load: &Load) -> Result<bool> {
        let interrupted = loop {
            let now = load.epoch().elapsed();
            while let Some(step) = self.schedule.pop_due(now) {
                self.take_step(step, load.epoch())?;
            }
            self.show_progress(load);
            let wait = self
                .schedule
                .next_due()
                .map_or(PROGRESS, |due| due.saturating_sub(now).min(PROGRESS));
            match self.events.recv_timeout(wait) {
                Ok(Event::Load(LoadEvent::Milestone(fault))) => {
                    self.take_step(Step::Strike(fault), load.epoch())?
                }
                Ok(Event::Load(LoadEvent::Done)) => break false,
                Ok(Event::Interrupted) => {
                    load.stop();
                    break true;
                }
                Ok(Event::Process { host, role, sign: Sign::Gone }) => {
                    self.note_exit(host, role)?
                }
                Ok(Event::Process { .. }) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the run holds a sender itself")
                }
            }
        };
        if self.progress {
            eprint!("\r\x1b[K");
        }
        Ok(interrupted)
    }

    fn take_step(&mut self, step: Step, epoch: Instant) -> Result<()> {
        match step {
            Step::Strike(number) => {
                let Fault { host, kind, .. } = *self.schedule.fault(number);
                let processes = &mut self.hosts[host];
                match kind {
                    FaultKind::Kill => processes.daemon.kill()?,
                    FaultKind::LinkDown => {
                        // The cable first: a dying kernel must not say goodbye with resets.
                        self.topology.unplug(host)?;
                        processes.daemon.kill()?;
                        processes.service.kill()?;
                    }
                    FaultKind::Pause(length) => {
                        processes.daemon.signal(libc::SIGSTOP)?;
                        self.schedule.resume_at(epoch.elapsed() + length, number);
                    }
                }
                self.strikes[number] = Some(epoch.elapsed());
            }
            Step::Resume(number) => {
                self.hosts[self.schedule.fault(number).host].daemon.signal(libc::SIGCONT)?
            }
        }
        Ok(())
    }

    fn note_exit(&mut self, host: usize, role: Role) -> Result<()> {
        let process = self.hosts[host].process(role);
        // Otherwise it is a fault's doing.
        if !process.is_reaped() {
            eprintln!("{}", process.epitaph()?);
            self.unexpected_exits.push(process.name().to_owned());
        }
        Ok(())
    }

    fn show_progress(&self, load: &Load) {
        if self.progress {
            let (started, all) = (load.started(), self.args.connections);
            eprint!(
                "\r{started} of {all} connections started, {:.1} s\x1b[K",
                load.epoch().elapsed().as_secs_f64()
            );
            drop(std::io::stderr().flush());
        }
    }

    /// When connections are to begin: a Poisson process, the same in each run.
    fn starts(&self) -> Vec<Duration> {
        let Some(rate) = self.args.rate else { return Vec::new() };
        let mut random = StdRng::seed_from_u64(1);
        let mut at = 0.0;
        let gap = || {
            at -= (1.0 - random.random::<f64>()).ln() / rate;
            Duration::from_secs_f64(at)
        };
        std::iter::repeat_with(gap).take(self.args.connections as usize).collect()
    }

    fn fault_outcomes(&self) -> Vec<FaultOutcome> {
        let outcome = |(number, &at): (usize, &Option<Duration>)| FaultOutcome {
            fault: self.schedule.fault(number).clone(),
            at,
        };
        self.strikes.iter().enumerate().map(outcome).collect()
    }
}
