//! `clusterd lab`: a whole cluster on one machine, in network namespaces.
//!
//! Real kernels, the real daemon, real TCP clients and a capture as the judge;
//! only the cables are virtual. `run` raises a cluster, loads it, breaks it as
//! asked, reports and leaves nothing behind; `bench` measures. `up`, `exec` and `down` keep one
//! for looking around.

mod accept_all;
mod bench;
mod capture;
mod client;
mod faults;
mod flood;
mod hosts;
mod isn;
mod loss;
mod measure;
mod netns;
mod oracle;
mod process;
mod reach;
mod report;
mod run;
mod rush;
mod service;
mod standing;
mod text;
mod topology;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use faults::{Fault, FaultKind, PauseTarget, Target};
use hosts::DaemonArgs;
use isn::Isn;
use loss::ClaimLoss;
use topology::{CLIENT_ADDRESSES_MAX, Family, HOSTS_MAX, Medium, Plan};

/// What to do with a lab.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Raise a cluster, load it, report what happened and take it down.
    ///
    /// Exits with 0 if every connection was answered, and 1 if not.
    Run(RunArgs),
    /// Compare with the plain kernel, xt_cluster and the least any daemon can cost.
    ///
    /// Exits with 0 if every connection was answered, and 1 if not.
    Bench(bench::BenchArgs),
    /// Compare the connect times of the MAC modes
    Modes(bench::modes::ModesArgs),
    /// Flood the virtual IP with SYNs from spoofed addresses, and see what is left for
    /// clients: by the daemons, by xt_cluster, and by the kernel's buckets.
    Flood(flood::FloodArgs),
    /// Raise a cluster that stays until `lab down`.
    Up(standing::UpArgs),
    /// Try each MAC mode on each kind of switch, and print which connections come about.
    ///
    /// Exits with 0 if those and only those combinations work that are said to, and `clusterd
    /// doctor` knows beforehand.
    Reach(reach::ReachArgs),
    /// Run a command on a host of a lab (h1, h2..., client, switch or router).
    Exec(standing::ExecArgs),
    /// Take a lab down.
    Down(standing::DownArgs),
    /// The TCP service of a lab host.
    #[command(hide = true)]
    Serve(service::ServeArgs),
    /// A reader that accepts every queued SYN.
    #[command(hide = true)]
    AcceptAll(accept_all::AcceptAllArgs),
}

/// The cluster to raise.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Number of hosts.
    #[arg(long, default_value_t = 3, value_parser = parse_within::<1, HOSTS_MAX>)]
    nodes: usize,
    /// What connects them.
    #[arg(long, value_enum, default_value_t = Medium::Switch)]
    topology: Medium,
    /// IPv6 instead of IPv4: the virtual IP is fd00:77::2.
    #[arg(long)]
    ipv6: bool,
    /// Number of addresses the client has.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_within::<1, CLIENT_ADDRESSES_MAX>)]
    client_addresses: usize,
    /// Claims the switch loses on the way to each host, once the hosts know each
    /// other: 0.01, 1%, 100%.
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    claim_loss: ClaimLoss,
    /// Sequence numbers of the hosts; namespaces share a secret that real hosts do not.
    #[arg(long, value_enum, default_value_t = Isn::Distinct)]
    isn: Isn,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// Options of `lab run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Number of connections.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// How many connections are attempted at a time.
    #[arg(long, default_value_t = 64, value_parser = parse_within::<1, 4096>)]
    concurrency: usize,
    /// Kill the daemon of a host (SIGKILL): h2@50% of the connections, or h2@1.5s; repeatable.
    #[arg(long, value_name = "HOST@WHEN")]
    kill: Vec<Target>,
    /// Unplug a host and kill all its processes; repeatable.
    #[arg(long, value_name = "HOST@WHEN")]
    link_down: Vec<Target>,
    /// Stop the daemon of a host for a while (SIGSTOP): h2@30%:2s; repeatable.
    #[arg(long, value_name = "HOST@WHEN:FOR")]
    pause: Vec<PauseTarget>,
    /// Begin so many connections per second, independent of each other, instead of each as soon
    /// as one before it has ended.
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Record the daemons, and write to this new directory what the simulator needs to repeat
    /// the run: see `clusterd-sim validate`.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Write what the client's interface saw to a capture file.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
    /// Show the hosts' logs on stderr.
    #[arg(long, short)]
    verbose: bool,
}

impl ClusterArgs {
    fn plan(&self) -> Plan {
        Plan {
            nodes: self.nodes,
            client_addresses: self.client_addresses,
            medium: self.topology,
            isn: self.isn,
            family: self.family(),
        }
    }

    fn family(&self) -> Family {
        if self.ipv6 { Family::V6 } else { Family::V4 }
    }
}

impl RunArgs {
    /// All faults, or what is wrong with them.
    fn faults(&self) -> Result<Vec<Fault>, String> {
        let kills = self.kill.iter().map(|target| target.fault(FaultKind::Kill));
        let links = self.link_down.iter().map(|target| target.fault(FaultKind::LinkDown));
        let pauses = self.pause.iter().map(PauseTarget::fault);
        let faults: Vec<_> = kills.chain(links).chain(pauses).collect();
        match faults.iter().find(|fault| fault.host >= self.cluster.nodes) {
            Some(fault) => Err(format!(
                "there is no {} among {} hosts; ask for more with --nodes",
                topology::host_name(fault.host),
                self.cluster.nodes
            )),
            None => Ok(faults),
        }
    }

    /// The command line that repeats the run, defaults spelled out.
    fn command_line(&self) -> String {
        let cluster = &self.cluster;
        let mut words: Vec<String> = ["clusterd", "lab", "run"].map(String::from).into();
        let mut option = |name: &str, value: &dyn std::fmt::Display| {
            words.extend([name.to_owned(), value.to_string()])
        };
        option("--nodes", &cluster.nodes);
        option("--topology", &hosts::name_of(&cluster.topology));
        option("--connections", &self.connections);
        option("--concurrency", &self.concurrency);
        if let Some(rate) = &self.rate {
            option("--rate", rate);
        }
        option("--client-addresses", &cluster.client_addresses);
        option("--claim-loss", &cluster.claim_loss);
        option("--isn", &hosts::name_of(&cluster.isn));
        self.kill.iter().for_each(|target| option("--kill", target));
        self.link_down.iter().for_each(|target| option("--link-down", target));
        self.pause.iter().for_each(|target| option("--pause", target));
        if cluster.ipv6 {
            words.push("--ipv6".to_owned());
        }
        words.extend(cluster.daemon.to_lab_options());
        text::shell_line(words.iter().map(String::as_str))
    }
}

/// Carries out a lab command. The exit code is 2 for a request that makes no sense.
pub fn execute(command: &LabCommand) -> Result<ExitCode> {
    match command {
        LabCommand::Run(args) => match args.faults() {
            Ok(faults) => run::run(args, faults),
            Err(problem) => {
                eprintln!("error: {problem}");
                Ok(ExitCode::from(2))
            }
        },
        LabCommand::Bench(args) => bench::run(args),
        LabCommand::Modes(args) => bench::modes::run(args),
        LabCommand::Flood(args) => flood::run(args),
        LabCommand::Reach(args) => reach::run(args),
        LabCommand::Up(args) => standing::up(args).map(|()| ExitCode::SUCCESS),
        LabCommand::Exec(args) => standing::exec(args).map(|never| match never {}),
        LabCommand::Down(args) => standing::down(args).map(|()| ExitCode::SUCCESS),
        LabCommand::AcceptAll(args) => accept_all::accept_all(args).map(|()| ExitCode::SUCCESS),
        LabCommand::Serve(args) => service::serve(args).map(|()| ExitCode::SUCCESS),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.1..=1e6).contains(&rate) => Ok(rate),
        _ => Err("not a number from 0.1 to 1000000".to_owned()),
    }
}

fn parse_within<const MIN: usize, const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (MIN..=MAX).contains(&number) => Ok(number),
        _ => Err(format!("not a number from {MIN} to {MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Lab {
        #[command(subcommand)]
        command: LabCommand,
    }

    fn parse(words: &[&str]) -> Result<RunArgs, clap::Error> {
        match Lab::try_parse_from(["lab", "run"].iter().chain(words))?.command {
            LabCommand::Run(args) => Ok(args),
            other => panic!("`lab run` parsed as {other:?}"),
        }
    }

    #[test]
    fn the_command_line_in_the_report_repeats_the_run() {
        let words = [
            "--nodes=5",
            "--topology=mac-snooping",
            "--ipv6",
            "--mac=igmp",
            "--kill=h2@50%",
            "--pause=h3@1500ms:2s",
            "--link-down=h5@0%",
            "--claim-loss=0.01",
            "--pacing=race",
            "--daemon-arg=--slot=2ms",
        ];
        let line = parse(&words).unwrap().command_line();
        let again: Vec<_> = line.split(' ').skip(3).collect();
        assert_eq!(parse(&again).unwrap().command_line(), line);
        for word in ["h2@50%", "h3@1s500ms:2s", "h5@0%", "1%", "race", "--daemon-arg=--slot=2ms"] {
            assert!(again.contains(&word), "{word} is not in {line}");
        }
    }

    #[test]
    fn a_fault_needs_a_host_that_exists() {
        assert!(parse(&["--nodes=2", "--kill=h2@1s"]).unwrap().faults().is_ok());
        let problem = parse(&["--nodes=2", "--kill=h3@1s"]).unwrap().faults().unwrap_err();
        assert!(problem.contains("h3") && problem.contains("--nodes"), "{problem}");
    }
}
