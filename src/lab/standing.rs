//! `clusterd lab up`, `exec` and `down`: a lab that stays.
//!
//! Its namespaces have names, `clab-NAME-h1` and so on, that `ip netns` knows;
//! its logs are in `/run/clusterd-lab/NAME`.

use std::convert::Infallible;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::ClusterArgs;
use super::hosts::{daemon_command, service_command};
use super::netns::{self, Namespace};
use super::process::{says_ready, start_detached};
use super::run::READY_TIMEOUT;
use super::topology::{Medium, SERVICE_PORT, Topology, host_mac, host_name};
use crate::io::cluster_mac::MacMode;

/// Where labs keep their logs, one directory each.
const LABS: &str = "/run/clusterd-lab";
/// How often a log file or a dying process is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long processes may take to clean up after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(3);

/// Options of `lab up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    name: LabName,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Describe the lab as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Options of `lab exec`.
#[derive(Clone, Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    name: LabName,
    /// h1, h2..., client, switch or router.
    host: String,
    /// The command and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

/// Options of `lab down`.
#[derive(Clone, Debug, Args)]
pub struct DownArgs {
    #[command(flatten)]
    name: LabName,
}

/// Which lab.
#[derive(Clone, Debug, Args)]
struct LabName {
    /// Name of the lab.
    #[arg(long, default_value = "lab", value_parser = parse_name)]
    name: String,
}

impl LabName {
    fn namespace(&self, role: &str) -> String {
        format!("clab-{}-{role}", self.name)
    }

    fn directory(&self) -> PathBuf {
        Path::new(LABS).join(&self.name)
    }

    /// The names of the lab's namespaces that exist, in order.
    fn namespaces(&self) -> Result<Vec<String>> {
        let prefix = self.namespace("");
        let is_role = |role: &str| {
            let is_host = |number: &str| number.parse::<usize>().is_ok();
            ["client", "switch", "router"].contains(&role)
                || role.strip_prefix('h').is_some_and(is_host)
        };
        let directory = netns::named_path("");
        let entries = match fs::read_dir(&directory) {
            // `ip netns add` creates it at first use.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("read {}", directory.display()))?,
        };
        let mut names: Vec<_> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.strip_prefix(&prefix).is_some_and(is_role))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// What `lab up --json` prints.
#[derive(Debug, Serialize)]
struct Description {
    name: String,
    vip: String,
    port: u16,
    topology: Medium,
    mac_mode: MacMode,
    mac: String,
    client_namespace: String,
    switch_namespace: String,
    hosts: Vec<HostDescription>,
}

#[derive(Debug, Serialize)]
struct HostDescription {
    name: String,
    namespace: String,
    address: String,
    mac: String,
    log: PathBuf,
    daemon_pid: u32,
    service_pid: u32,
}

/// Raises a lab that stays.
pub fn up(args: &UpArgs) -> Result<()> {
    let name = &args.name;
    if !name.namespaces()?.is_empty() || name.directory().exists() {
        bail!(
            "there is a lab named `{0}` already; take it down with `clusterd lab down --name {0}`, \
             or choose another --name",
            name.name
        );
    }
    let description = raise(args).inspect_err(|_| {
        // The error of the start is the one to show.
        drop(take_down(name));
    })?;
    if args.json {
        println!("{}", serde_json::to_string(&description).context("write the lab as JSON")?);
    } else {
        print_description(&description);
    }
    Ok(())
}

fn raise(args: &UpArgs) -> Result<Description> {
    let name = &args.name;
    let directory = name.directory();
    fs::create_dir_all(&directory).with_context(|| {
        format!("create {}; the lab needs root, so try sudo", directory.display())
    })?;
    let topology =
        Topology::raise(&args.cluster.plan(), |role| Namespace::named(&name.namespace(role)))?;
    let family = args.cluster.family();
    let mut hosts = Vec::new();
    for (index, namespace) in topology.hosts.iter().enumerate() {
        let host = host_name(index);
        let log_path = directory.join(format!("{host}.log"));
        let log =
            File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
        let service = service_command(namespace, index, family)?;
        let service = start_detached("the service", service, &log)?;
        let daemon = &args.cluster.daemon;
        let daemon = daemon_command(namespace, family, daemon, Some(&directory), None)?;
        let daemon = start_detached("the daemon", daemon, &log)?;
        hosts.push((host, log_path, service, daemon));
    }
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut descriptions = Vec::new();
    for (index, (host, log, mut service, mut daemon)) in hosts.into_iter().enumerate() {
        await_ready(&log, [&mut service, &mut daemon], deadline)
            .with_context(|| format!("host {host} did not start"))?;
        descriptions.push(HostDescription {
            namespace: name.namespace(&host),
            name: host,
            address: family.host_address(index).to_string(),
            mac: host_mac(index).to_string(),
            log,
            daemon_pid: daemon.id(),
            service_pid: service.id(),
        });
    }
    topology.lose_claims(args.cluster.claim_loss)?;
    Ok(Description {
        name: name.name.clone(),
        vip: family.vip().to_string(),
        port: SERVICE_PORT,
        topology: args.cluster.topology,
        mac_mode: args.cluster.daemon.mac,
        mac: args.cluster.daemon.mac.address(family.vip()).to_string(),
        client_namespace: name.namespace("client"),
        switch_namespace: name.namespace("switch"),
        hosts: descriptions,
    })
}

/// Waits until service and daemon have both said in their common log that they are ready.
fn await_ready(log: &Path, mut processes: [&mut Child; 2], deadline: Instant) -> Result<()> {
    loop {
        let text = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
        if text.lines().filter(|line| says_ready(line)).count() >= processes.len() {
            return Ok(());
        }
        for process in &mut processes {
            if let Some(status) = process.try_wait().context("wait for a process of the lab")? {
                bail!("a process ended with {status}; its log says:\n{}", text.trim_end());
            }
        }
        if Instant::now() >= deadline {
            bail!("it is not ready after {READY_TIMEOUT:?}; its log says:\n{}", text.trim_end());
        }
        thread::sleep(POLL);
    }
}

fn print_description(lab: &Description) {
    println!("lab `{}` is up: {}, port {}, is answered by", lab.name, lab.vip, lab.port);
    for host in &lab.hosts {
        println!("  {:4} {:11} {}  log {}", host.name, host.address, host.mac, host.log.display());
    }
    let option = if lab.name == "lab" { String::new() } else { format!("--name {} ", lab.name) };
    println!("try");
    println!(
        "  clusterd lab exec {option}client bash -c 'exec 3<>/dev/tcp/{}/{}; echo hello >&3; head -1 <&3'",
        lab.vip, lab.port
    );
    println!("  clusterd lab exec {option}h1 clusterd status");
    println!("  clusterd lab exec {option}h1 tcpdump -ni eth0 ip proto 150 or ip6 proto 150");
    println!("  clusterd lab down {option}");
}

/// Becomes a command on a host of a lab; returns only if that fails.
pub fn exec(args: &ExecArgs) -> Result<Infallible> {
    let namespace = args.name.namespace(&args.host);
    if !netns::is_named(&namespace) {
        let prefix = args.name.namespace("");
        let names = args.name.namespaces()?;
        let roles: Vec<_> = names.iter().filter_map(|name| name.strip_prefix(&prefix)).collect();
        match roles.as_slice() {
            [] => bail!(
                "there is no lab named `{0}`; raise it with `clusterd lab up --name {0}`",
                args.name.name
            ),
            roles => bail!(
                "lab `{}` has no `{}`; it has {}",
                args.name.name,
                args.host,
                roles.join(", ")
            ),
        }
    }
    let (program, arguments) = args.command.split_first().context("the command is empty")?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace]);
    // `clusterd status` asks the lab's daemons, so it had better be of their version.
    if program == "clusterd" {
        command.arg(std::env::current_exe().context("find this program's own file")?);
    } else {
        command.arg(program);
    }
    Err(command.args(arguments).exec())
        .context("run `ip netns exec`; the lab needs the package iproute2")
}

/// Takes a lab down.
pub fn down(args: &DownArgs) -> Result<()> {
    if args.name.namespaces()?.is_empty() && !args.name.directory().exists() {
        bail!(
            "there is no lab named `{}`; `ip netns list` shows those there are as clab-NAME-...",
            args.name.name
        );
    }
    take_down(&args.name)
}

fn take_down(name: &LabName) -> Result<()> {
    let namespaces = name.namespaces()?;
    for (signal, patience) in [(libc::SIGTERM, TERM_TIMEOUT), (libc::SIGKILL, TERM_TIMEOUT)] {
        for pid in processes_in(&namespaces)? {
            // SAFETY: kill takes no pointers. The process may be gone by now, which is fine.
            unsafe { libc::kill(pid, signal) };
        }
        let deadline = Instant::now() + patience;
        while !processes_in(&namespaces)?.is_empty() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
    for namespace in &namespaces {
        netns::delete_named(namespace)?;
    }
    let directory = name.directory();
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", directory.display()));
        }
        _ => {}
    }
    // The directory of all labs goes with the last of them; until then it is not empty.
    fs::remove_dir(LABS).ok();
    Ok(())
}

/// The processes whose network namespace is one of these, as `ip netns pids` finds them.
fn processes_in(namespaces: &[String]) -> Result<Vec<libc::pid_t>> {
    let mut identities = Vec::new();
    for namespace in namespaces {
        let path = netns::named_path(namespace);
        let metadata = fs::metadata(&path).with_context(|| format!("read {}", path.display()))?;
        identities.push((metadata.dev(), metadata.ino()));
    }
    let own = std::process::id() as libc::pid_t;
    let inside = |pid: libc::pid_t| {
        // A process may end while it is looked at.
        fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|metadata| identities.contains(&(metadata.dev(), metadata.ino())))
    };
    Ok(fs::read_dir("/proc")
        .context("read /proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != own && inside(pid))
        .collect())
}

fn parse_name(text: &str) -> Result<String, String> {
    // The name becomes part of file names, and of a namespace's name.
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !text.is_empty() && text.len() <= 32 && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 32 letters, digits, - or _".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_directory() {
        for name in ["lab", "a-b_2"] {
            assert!(parse_name(name).is_ok(), "{name}");
        }
        for name in ["", "..", "a/b", "a b", &"x".repeat(33)] {
            assert!(parse_name(name).is_err(), "{name}");
        }
    }
}
