//! `clusterd lab reach`: each MAC mode on each kind of switch.
//!
//! The clusters of one kind of switch stand side by side and are tried at the same time, since what
//! does not work takes as long as a client's patience. A combination works if all connections
//! are answered and all hosts hear every SYN: a cluster of which one host hears them answers, too.

mod explanation;

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::client;
use super::hosts::{DaemonArgs, daemon_command, name_of, service_command};
use super::isn::Isn;
use super::netns::Namespace;
use super::process::{self, Process};
use super::run::READY_TIMEOUT;
use super::topology::{Family, HOSTS_MAX, Medium, Plan, Topology, feed, host_name};
use crate::cli::PacingArg;
use crate::io::cluster_mac::MacMode;
use crate::io::rules::Guard;
use explanation::Doctors;

/// How long a client waits for a SYN-ACK, and for the answer to its request. It
/// sends its SYN again after one second and after three.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long SYNs that are under way when the last connection has ended are waited for.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// How often they are looked for.
const POLL: Duration = Duration::from_millis(50);
/// The table with the counter of SYNs.
const TABLE: &str = "reach";

/// Options of `lab reach`.
#[derive(Clone, Debug, Args)]
pub struct ReachArgs {
    /// Number of hosts.
    #[arg(long, default_value_t = 3, value_parser = super::parse_within::<1, HOSTS_MAX>)]
    nodes: usize,
    /// Connections attempted in each combination, all at once.
    #[arg(long, default_value_t = 20, value_parser = super::parse_within::<1, 1000>)]
    connections: usize,
    /// Kinds of switches [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    topology: Vec<Medium>,
    /// MAC modes [default: all].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODE")]
    mac: Vec<MacMode>,
    /// IPv6 instead of IPv4.
    #[arg(long)]
    ipv6: bool,
    /// Print one JSON object for each combination.
    #[arg(long)]
    json: bool,
}

impl ReachArgs {
    fn family(&self) -> Family {
        if self.ipv6 { Family::V6 } else { Family::V4 }
    }
}

/// What came of one combination.
#[derive(Clone, Debug, Serialize)]
struct Cell {
    topology: Medium,
    mac: MacMode,
    /// Connections attempted, and those that were answered.
    connections: usize,
    answered: usize,
    /// Hosts, and those that heard every SYN.
    hosts: usize,
    hearing: usize,
    /// Why it cannot work; nothing if it must.
    obstacle: Option<&'static str>,
    /// Whom `clusterd doctor` blames before the cluster is started; nobody if it expects it to work.
    doctor: Option<String>,
}

impl Cell {
    fn works(&self) -> bool {
        self.answered == self.connections && self.hearing == self.hosts
    }

    fn is_as_said(&self) -> bool {
        self.works() == self.obstacle.is_none() && self.works() == self.doctor.is_none()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, connections, hearing, hosts, .. } = self;
        let text = match self.works() {
            true => "works".to_owned(),
            false => {
                let doctor = self.doctor.as_deref().unwrap_or("unexplained");
                format!("{answered}/{connections} {hearing}/{hosts} {doctor}")
            }
        };
        let mark = if self.is_as_said() { "" } else { " (!)" };
        f.pad(&(text + mark))
    }
}

/// The segment of one MAC mode.
struct Segment {
    topology: Topology,
    mode: MacMode,
}

/// Tries the combinations. Must be called on the main thread, before there are others.
pub fn run(args: &ReachArgs) -> Result<ExitCode> {
    // Nothing outlives this process: namespaces and children end with it.
    process::on_interrupt(|| std::process::exit(130))?;
    let media = if args.topology.is_empty() { &Medium::ALL[..] } else { &args.topology[..] };
    let modes = if args.mac.is_empty() { &MacMode::ALL[..] } else { &args.mac[..] };
    if !args.json {
        let names: Vec<_> = modes.iter().map(|mode| format!("{:<26}", mode.name())).collect();
        println!("{:<18}{}", "", names.concat().trim_end());
    }
    let mut cells = Vec::new();
    for &medium in media {
        let row = try_on(medium, modes, args)
            .with_context(|| format!("try the topology {}", name_of(&medium)))?;
        if args.json {
            for cell in &row {
                println!("{}", serde_json::to_string(cell).context("write a result as JSON")?);
            }
        } else {
            let row: Vec<_> = row.iter().map(|cell| format!("{cell:<26}")).collect();
            println!("{:<18}{}", name_of(&medium), row.concat().trim_end());
        }
        cells.extend(row);
    }
    let is_as_said = cells.iter().all(Cell::is_as_said);
    if !args.json {
        print_legend(&cells, args);
    }
    Ok(if is_as_said { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tries some modes on one kind of switch.
fn try_on(medium: Medium, modes: &[MacMode], args: &ReachArgs) -> Result<Vec<Cell>> {
    let doctors = Doctors::call(medium, args.nodes, args.family())?;
    let raised = modes.iter().map(|&mode| raise(medium, mode, args));
    let segments = raised.collect::<Result<Vec<_>>>()?;
    // They end when this function does, before the segments.
    let _services = start(&segments, "service", |segment, index| {
        service_command(&segment.topology.hosts[index], index, args.family())
    })?;
    let _daemons = start(&segments, "daemon", |segment, index| {
        let daemon = DaemonArgs {
            mac: segment.mode,
            pacing: PacingArg::Rank,
            guard: Guard::Rst,
            extra: Vec::new(),
        };
        daemon_command(&segment.topology.hosts[index], args.family(), &daemon, None, None)
    })?;
    let mut cells: Vec<Cell> = thread::scope(|scope| {
        let threads: Vec<_> = segments
            .iter()
            .map(|segment| scope.spawn(move || measure(segment, medium, args)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Result<_>>()
    })?;
    let culprits = doctors.verdict()?;
    for cell in &mut cells {
        cell.doctor = culprits.get(cell.mac.name()).cloned().flatten();
    }
    Ok(cells)
}

/// Starts a process on each host of each segment, and waits until all are ready.
fn start(
    segments: &[Segment],
    what: &str,
    command: impl Fn(&Segment, usize) -> Result<Command>,
) -> Result<Vec<Process>> {
    let mut commands = Vec::new();
    for segment in segments {
        for index in 0..segment.topology.hosts.len() {
            let name = format!("{} {what} in mode {}", host_name(index), segment.mode);
            commands.push((name, command(segment, index)?));
        }
    }
    Process::start_ready(commands, READY_TIMEOUT)
}

fn raise(medium: Medium, mode: MacMode, args: &ReachArgs) -> Result<Segment> {
    let family = args.family();
    let plan = Plan { nodes: args.nodes, client_addresses: 1, medium, isn: Isn::Distinct, family };
    let (vip, header) = match family {
        Family::V4 => (family.vip(), "ip"),
        Family::V6 => (family.vip(), "ip6"),
    };
    let topology = Topology::raise(&plan, |_role| Namespace::unnamed())?;
    let count = |namespace: &Namespace, hook: &str| {
        // Before the rules of the daemon; of what a host gets, what its IP layer accepts.
        let rules = format!(
            "table inet {TABLE} {{\ncounter syns {{ }}\nchain passing {{\n\
             type filter hook {hook} priority -310;\n\
             {header} daddr {vip} tcp flags & (syn|ack) == syn counter name syns\n}}\n}}\n"
        );
        feed(namespace, "nft", &["-f", "-"], &rules)
    };
    topology.hosts.iter().try_for_each(|host| count(host, "prerouting"))?;
    count(&topology.client, "output")?;
    Ok(Segment { topology, mode })
}

fn measure(segment: &Segment, medium: Medium, args: &ReachArgs) -> Result<Cell> {
    let Topology { hosts, client, .. } = &segment.topology;
    let source =
        args.family().client_addresses(medium, 1).next().context("the client has an address")?;
    let answered = client::knock(client, source, args.connections, PATIENCE)?;
    let sent = syns(client)?;
    let deadline = Instant::now() + STRAGGLERS;
    let hearing = loop {
        let heard = hosts.iter().map(syns).collect::<Result<Vec<_>>>()?;
        let hearing = heard.iter().filter(|&&heard| heard == sent).count();
        if hearing == hosts.len() || Instant::now() >= deadline {
            break hearing;
        }
        thread::sleep(POLL);
    };
    Ok(Cell {
        topology: medium,
        mac: segment.mode,
        connections: args.connections,
        answered,
        hosts: hosts.len(),
        hearing,
        obstacle: medium.obstacle(segment.mode),
        doctor: None,
    })
}

/// SYNs to the virtual IP that a namespace has counted.
fn syns(namespace: &Namespace) -> Result<u64> {
    let listing = namespace
        .command("nft")
        .args(["list", "counter", "inet", TABLE, "syns"])
        .output()
        .context("run `nft`")?;
    let text = String::from_utf8_lossy(&listing.stdout);
    let count = text.split_whitespace().skip_while(|&word| word != "packets").nth(1);
    count.and_then(|count| count.parse().ok()).context("read the counter of SYNs")
}

fn print_legend(cells: &[Cell], args: &ReachArgs) {
    let ReachArgs { connections, nodes, .. } = args;
    println!(
        "\nworks: {connections} of {connections} connections answered, and each SYN heard by {nodes} of \
         {nodes} hosts; else the two numbers, and whom `clusterd \
         doctor` blames before anything is started"
    );
    if !cells.iter().all(Cell::is_as_said) {
        println!("(!): contrary to what is said, or to the doctor");
    }
    let mut obstacles: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for cell in cells {
        if let Some(obstacle) = cell.obstacle {
            let combination = format!("{} on {}", cell.mac, name_of(&cell.topology));
            obstacles.entry(obstacle).or_default().push(combination);
        }
    }
    for (obstacle, combinations) in obstacles {
        println!("{}: {obstacle}", combinations.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_by_the_one_host_that_hears_is_not_enough() {
        let cell = Cell {
            topology: Medium::Hub,
            mac: MacMode::Shared,
            connections: 20,
            answered: 20,
            hosts: 3,
            hearing: 3,
            obstacle: None,
            doctor: None,
        };
        assert!(cell.works() && cell.is_as_said());
        let cell = Cell { hearing: 1, ..cell };
        assert!(!cell.works() && !cell.is_as_said());
        assert_eq!(cell.to_string(), "20/20 1/3 unexplained (!)");
        let cell = Cell { obstacle: Some("a reason"), ..cell };
        assert!(!cell.is_as_said());
        assert!(Cell { doctor: Some("learning".to_owned()), ..cell }.is_as_said());
    }

    #[test]
    fn each_mode_has_a_network_and_each_network_a_mode() {
        for mode in MacMode::ALL {
            assert!(Medium::ALL.iter().any(|medium| medium.obstacle(mode).is_none()), "{mode}");
        }
        for medium in Medium::ALL {
            assert!(MacMode::ALL.iter().any(|&mode| medium.obstacle(mode).is_none()), "{medium:?}");
        }
    }
}
