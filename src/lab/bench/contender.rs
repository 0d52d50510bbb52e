//! Ways to answer a virtual IP, each with a cluster that does it.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::PacingArg;
use crate::io::cluster_mac::MacMode;
use crate::io::rules::Guard;
use crate::io::{nft, xt_queue};
use crate::lab::client::{self, fetch};
use crate::lab::hosts::{DaemonArgs, daemon_command, service_command, this_program_in};
use crate::lab::isn::Isn;
use crate::lab::netns::Namespace;
use crate::lab::process::Process;
use crate::lab::run::READY_TIMEOUT;
use crate::lab::topology::{Family, HANG_UP_PORT, Medium, Plan, Topology, VIP, feed, host_name};

/// Queue of the accept-all reader.
const QUEUE: u16 = 1;
/// Makes a frame to the group MAC acceptable to IP.
const TO_HOST: &str = "meta pkttype { multicast, broadcast } meta pkttype set host";

/// A way to answer a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// The kernel alone; of several hosts only the first answers.
    Plain,
    /// A user-space decision about every SYN, and nothing else.
    Floor,
    /// The xtables match `cluster`: a hash of the source address, in the kernel.
    XtCluster,
    /// The daemon.
    Clusterd(Guard),
    /// The daemon, kept from deciding by hash.
    ByClaims(Guard),
    /// The daemon in this MAC mode.
    InMode(MacMode),
}

impl Contender {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 5] = [
        Self::Plain,
        Self::Floor,
        Self::XtCluster,
        Self::Clusterd(Guard::Rst),
        Self::Clusterd(Guard::Strict),
    ];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Floor => "floor",
            Self::XtCluster => "xt_cluster",
            Self::Clusterd(Guard::Rst) => "clusterd rst",
            Self::Clusterd(Guard::Strict) => "clusterd strict",
            Self::ByClaims(Guard::Rst) => "clusterd rst, by claims",
            Self::ByClaims(Guard::Strict) => "clusterd strict, by claims",
            Self::InMode(mode) => mode.name(),
        }
    }

    /// The nft ruleset of a host, for those that have no daemon to install one.
    fn rules(self, host: usize, has_queue: bool) -> String {
        let inbound = match self {
            Self::Plain if host > 0 => format!("ip daddr {VIP} drop"),
            Self::Floor => format!(
                "ip daddr != {VIP} accept\n{TO_HOST}\n\
                 tcp flags & (fin|syn|rst|ack) == syn goto undecided"
            ),
            // The match itself makes the frame acceptable to IP.
            Self::XtCluster => String::new(),
            Self::Plain | Self::Clusterd(_) | Self::ByClaims(_) | Self::InMode(_) => {
                TO_HOST.to_owned()
            }
        };
        let queue = if has_queue { format!("queue num {QUEUE}") } else { String::new() };
        // A host whose turn it was not knows nothing of the connection, and would
        // reset it.
        let outbound = match self {
            Self::Floor => format!("ip saddr {VIP} tcp flags & (rst|ack) == rst drop"),
            _ => String::new(),
        };
        format!(
            "table inet bench {{\n\
             chain undecided {{\n{queue}\ndrop\n}}\n\
             chain inbound {{\ntype filter hook prerouting priority mangle;\n{inbound}\n}}\n\
             chain outbound {{\ntype filter hook output priority filter;\n{outbound}\n}}\n\
             }}\n"
        )
    }
}

/// The rules of the manual page iptables-extensions(8).
fn xt_cluster_rules(host: usize, hosts: usize) -> String {
    let node = host + 1;
    format!(
        "*mangle\n\
         -A PREROUTING -i eth0 -d {VIP} -m cluster --cluster-total-nodes {hosts} \
         --cluster-local-node {node} --cluster-hash-seed 0xdeadbeef -j MARK --set-mark 0xffff\n\
         -A PREROUTING -i eth0 -d {VIP} -m mark ! --mark 0xffff -j DROP\n\
         COMMIT\n"
    )
}

/// A contender at work. Dropping it takes it down.
pub struct Cluster {
    /// Who it is.
    pub contender: Contender,
    /// What decides about connections: daemons or readers, one per host, or nothing.
    pub deciders: Vec<Process>,
    services: Vec<Process>,
    /// Where it lives.
    pub topology: Topology,
    /// The client's addresses.
    pub sources: Vec<IpAddr>,
}

impl Cluster {
    /// Raises `hosts` hosts and connects once from each address of the client.
    pub fn raise(contender: Contender, hosts: usize, client_addresses: usize) -> Result<Self> {
        // A switch learns the MAC of mode `shared`, and one host gets all: modes are compared on a hub.
        let medium = match contender {
            Contender::InMode(_) => Medium::Hub,
            _ => Medium::Switch,
        };
        let plan =
            Plan { nodes: hosts, client_addresses, medium, isn: Isn::Distinct, family: Family::V4 };
        let mut cluster = Self {
            contender,
            deciders: Vec::new(),
            services: Vec::new(),
            topology: Topology::raise(&plan, |_role| Namespace::unnamed())?,
            sources: plan.family.client_addresses(plan.medium, client_addresses).collect(),
        };
        // A SYN that stays unanswered is given up after 7 s.
        cluster.topology.client.set_sysctls(&[("ipv4/tcp_syn_retries", "2")])?;
        cluster.services = cluster
            .start("service", |namespace, host| service_command(namespace, host, Family::V4))?;
        cluster.services.extend(cluster.start("hang-up service", |namespace, host| {
            let mut command = service_command(namespace, host, Family::V4)?;
            command.args(["--hang-up", "--port", &HANG_UP_PORT.to_string()]);
            Ok(command)
        })?);
        cluster.deciders = match contender {
            Contender::Plain | Contender::XtCluster => Vec::new(),
            Contender::Floor => cluster.start("reader", |namespace, host| {
                let mut command = this_program_in(namespace)?;
                command.args(["lab", "accept-all", "--queue", &QUEUE.to_string()]);
                command.args(["--host", &host.to_string(), "--hosts", &hosts.to_string()]);
                Ok(command)
            })?,
            Contender::Clusterd(guard) => cluster.daemons(MacMode::Multicast, guard, &[])?,
            Contender::ByClaims(guard) => {
                cluster.daemons(MacMode::Multicast, guard, &["--mode=claim"])?
            }
            Contender::InMode(mac) => cluster.daemons(mac, Guard::Rst, &[])?,
        };
        match contender {
            Contender::Plain | Contender::Floor | Contender::XtCluster => {
                cluster.configure(hosts)?;
            }
            Contender::Clusterd(_) | Contender::ByClaims(_) | Contender::InMode(_) => {}
        }
        for &source in &cluster.sources {
            client::first_connection(&cluster.topology.client, source)
                .with_context(|| format!("{} does not answer", contender.name()))?;
        }
        Ok(cluster)
    }

    /// How long it takes to fetch `bytes` over one connection.
    pub fn fetch(&self, bytes: u64) -> Result<Duration> {
        fetch(&self.topology.client, self.sources[0], bytes)
    }

    /// CPU time of all deciders so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.deciders.iter().map(Process::cpu_time).sum()
    }

    fn daemons(&self, mac: MacMode, guard: Guard, extra: &[&str]) -> Result<Vec<Process>> {
        let extra = extra.iter().map(|&word| word.to_owned()).collect();
        let args = DaemonArgs { mac, pacing: PacingArg::Rank, guard, extra };
        self.start("daemon", |namespace, _| {
            daemon_command(namespace, Family::V4, &args, None, None)
        })
    }

    fn start(
        &self,
        what: &str,
        command: impl Fn(&Namespace, usize) -> Result<Command>,
    ) -> Result<Vec<Process>> {
        let contender = self.contender.name();
        let hosts = self.topology.hosts.iter().enumerate();
        let commands = hosts
            .map(|(host, namespace)| {
                let name = format!("{} {what} of {contender}", host_name(host));
                Ok((name, command(namespace, host)?))
            })
            .collect::<Result<_>>()?;
        Process::start_ready(commands, READY_TIMEOUT)
    }

    /// Does what the daemon does by itself: rules, address, and the group MAC in
    /// the client's table of neighbours.
    fn configure(&self, hosts: usize) -> Result<()> {
        let has_queue = nft::has_queue()?;
        let mac = MacMode::Multicast.address(VIP.into());
        for (host, namespace) in self.topology.hosts.iter().enumerate() {
            feed(namespace, "nft", &["-f", "-"], &self.contender.rules(host, has_queue))?;
            if self.contender == Contender::Floor && !has_queue {
                namespace.within(|| {
                    xt_queue::insert("bench", "undecided", QUEUE)
                        .context("insert the NFQUEUE target")
                })?;
            }
            if self.contender == Contender::XtCluster {
                // Without this a foreign connection would be picked up by its ACKs.
                namespace.set_sysctls(&[("netfilter/nf_conntrack_tcp_loose", "0")])?;
                feed(namespace, "iptables-restore", &[], &xt_cluster_rules(host, hosts))
                    .context("the kernel needs the xtables match `cluster`")?;
            }
            // `ip maddr add` ends the whole batch, so it comes last.
            let address = format!("addr add {VIP}/32 dev eth0\nmaddr add {mac} dev eth0\n");
            self.topology.ip(namespace, &address)?;
        }
        let neighbour = format!("neigh replace {VIP} lladdr {mac} dev eth0 nud permanent\n");
        self.topology.ip(&self.topology.client, &neighbour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_plain_host_answers() {
        assert!(!Contender::Plain.rules(0, true).contains("ip daddr"));
        assert!(Contender::Plain.rules(1, true).contains("ip daddr 10.77.0.2 drop"));
    }
}
