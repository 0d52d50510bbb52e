//! The Ethernet segment of the lab: one switch, its hosts and one client.
//!
//! ```text
//!    h1        h2        h3             client
//!  10.77.0.11 .12       .13           10.77.0.200
//!   eth0      eth0      eth0             eth0      veth pairs; MAC of hN ends in N
//!     |         |         |                |
//!     +---------+--- br0 (switch) ---------+       the VIP is 10.77.0.2
//! ```
//!
//! With a router the client has addresses from 10.78.0.200 on, and the router 10.77.0.1 and 10.78.0.1.
//! With IPv6 they are fd00:77::11 and so on.

mod family;
mod medium;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use pnet::util::MacAddr;

use super::isn::{self, Isn};
use super::loss::ClaimLoss;
use super::netns::Namespace;
pub use family::Family;
pub use medium::Medium;
use medium::ROUTER_RULES;

/// The virtual IP address that the hosts of an IPv4 lab answer together.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The port of the service behind the VIP.
pub const SERVICE_PORT: u16 = 80;
/// The port of the service that hangs up on everybody.
pub const HANG_UP_PORT: u16 = 81;
/// MAC address of the client.
pub const CLIENT_MAC: MacAddr = MacAddr(2, 0, 0, 0, 1, 0);
/// The most hosts the address plan has room for.
pub const HOSTS_MAX: usize = 32;
/// The most client addresses the address plan has room for.
pub const CLIENT_ADDRESSES_MAX: usize = 50;

/// Default TTL of a host's packets: 66 of h1, 68 of h2 and so on. It tells in a capture which host
/// has sent a packet, in each MAC mode, before a router and behind it.
const TTL_OF_FIRST: u8 = 66;
/// Only a kernel that never gets to it takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the segment is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of hosts.
    pub nodes: usize,
    /// Number of addresses the client connects from.
    pub client_addresses: usize,
    /// What connects them.
    pub medium: Medium,
    /// Whether hosts differ in their TCP sequence numbers.
    pub isn: Isn,
    /// What addresses they have.
    pub family: Family,
}

/// A raised segment.
#[derive(Debug)]
pub struct Topology {
    /// The namespace of the bridge; port `hN` leads to host N, `client` to the client.
    pub switch: Namespace,
    /// The hosts, `h1` first.
    pub hosts: Vec<Namespace>,
    /// The namespace connections come from.
    pub client: Namespace,
    /// The router between client and switch, if there is one.
    router: Option<Namespace>,
}

impl Topology {
    /// Raises the segment in namespaces made by `make`, which is told the role
    /// of each: `switch`, `client`, `router`, `h1`, `h2`...
    pub fn raise(plan: &Plan, make: impl Fn(&str) -> Result<Namespace>) -> Result<Self> {
        let topology = Self {
            switch: make("switch")?,
            hosts: (0..plan.nodes).map(|host| make(&host_name(host))).collect::<Result<_>>()?,
            client: make("client")?,
            router: (plan.medium == Medium::Router).then(|| make("router")).transpose()?,
        };
        let family = plan.family;
        topology.switch.set_sysctls(plan.medium.switch_settings(family))?;
        let others = [&topology.client].into_iter().chain(&topology.router);
        for namespace in topology.hosts.iter().chain(others) {
            namespace.set_sysctls(family.settings())?;
            namespace.set_sysctls(plan.medium.member_settings())?;
        }
        for (index, host) in topology.hosts.iter().enumerate() {
            let ttl = ttl_of_host(index).to_string();
            host.set_sysctls(&[(family.ttl_setting(), &ttl)])?;
        }
        // Frames that cross the switch are none of its IP layer's business.
        topology.switch.set_sysctls(&[("bridge/bridge-nf-call-iptables", "0")])?;
        // A fast run opens more connections within TIME_WAIT than there are ports.
        topology.client.set_sysctls(&[
            ("ipv4/ip_local_port_range", "1024 65535"),
            ("ipv4/tcp_tw_reuse", "1"),
        ])?;

        topology.plug(plan)?;
        for (index, host) in topology.hosts.iter().enumerate() {
            topology.ip(host, &interface_commands(family, [family.host_address(index)]))?;
        }
        let addresses = family.client_addresses(plan.medium, plan.client_addresses);
        topology.ip(&topology.client, &interface_commands(family, addresses))?;
        topology.route(family)?;
        if family == Family::V6 {
            topology.hosts.iter().try_for_each(|host| host.within(wait_for_link_local))?;
        }
        if plan.isn == Isn::Distinct {
            topology.client.set_sysctls(&[("ipv4/tcp_sack", "0")])?;
            for (index, host) in topology.hosts.iter().enumerate() {
                isn::make_distinct(host, index, family.vip())?;
            }
        }
        Ok(topology)
    }

    /// Lets the switch lose a share of the claims from now on.
    pub fn lose_claims(&self, share: ClaimLoss) -> Result<()> {
        match share.rules(self.hosts.len()) {
            Some(rules) => feed(&self.switch, "nft", &["-f", "-"], &rules).context(
                "install the claim loss in the switch; this needs nftables and Linux 5.16",
            ),
            None => Ok(()),
        }
    }

    /// Takes the switch port of a host down, as pulling its cable does.
    pub fn unplug(&self, host: usize) -> Result<()> {
        self.ip(&self.switch, &format!("link set {} down\n", host_name(host)))
    }

    /// Makes the switch and plugs hosts and client in, the client by way of the router if there is one.
    fn plug(&self, plan: &Plan) -> Result<()> {
        let medium = plan.medium;
        let mut commands = medium.bridges();
        let mut ports = Vec::new();
        let mut cable = |port: String, bridge: &str, end: &Namespace, mac: Option<MacAddr>| {
            let address = mac.map_or_else(String::new, |mac| format!("address {mac} "));
            commands += &format!(
                "link add {port} type veth peer name eth0 {address}netns {}\n\
                 link set {port} master {bridge} up\n",
                end.path()
            );
            ports.push(port);
        };
        for (index, host) in self.hosts.iter().enumerate() {
            let bridge = medium.bridge_of(index, plan.nodes);
            cable(host_name(index), bridge, host, Some(host_mac(index)));
        }
        match &self.router {
            Some(router) => {
                cable("router".to_owned(), medium.bridge_of_client(), router, None);
                let (end, mac) = (self.client.path(), CLIENT_MAC);
                self.ip(
                    router,
                    &format!("link add eth1 type veth peer name eth0 address {mac} netns {end}\n"),
                )?;
            }
            None => {
                let bridge = medium.bridge_of_client();
                cable("client".to_owned(), bridge, &self.client, Some(CLIENT_MAC));
            }
        }
        commands += &medium.start(&ports);
        self.ip(&self.switch, &commands)?;
        match medium.switch_rules(&ports) {
            Some(rules) => feed(&self.switch, "nft", &["-f", "-"], &rules)
                .context("install the rules of the switch; this needs nftables and Linux 5.16"),
            None => Ok(()),
        }
    }

    /// Configures the router, and tells hosts and client of it.
    fn route(&self, family: Family) -> Result<()> {
        let Some(router) = &self.router else { return Ok(()) };
        let ([near, far], length) = (family.router_addresses(), family.prefix_length());
        let commands = format!(
            "link set lo up\nlink set eth0 up\nlink set eth1 up\n\
             addr add {near}/{length} dev eth0\naddr add {far}/{length} dev eth1\n"
        );
        self.ip(router, &commands)?;
        router.set_sysctls(&[(family.forwarding_setting(), "1")])?;
        feed(router, "nft", &["-f", "-"], ROUTER_RULES)?;
        self.ip(&self.client, &format!("route add default via {far}\n"))?;
        let route = format!("route add {} via {near}\n", family.client_network());
        self.hosts.iter().try_for_each(|host| self.ip(host, &route))
    }

    /// Runs commands of the program `ip` in one of the namespaces, one per line.
    pub fn ip(&self, namespace: &Namespace, commands: &str) -> Result<()> {
        feed(namespace, "ip", &["-batch", "-"], commands)
    }
}

/// Name of the host at `index`: the first is `h1`.
pub fn host_name(index: usize) -> String {
    format!("h{}", index + 1)
}

/// MAC address of the host at `index`; in mode `shared` it has another one while its daemon runs.
pub fn host_mac(index: usize) -> MacAddr {
    MacAddr::new(2, 0, 0, 0, 0, 1 + index as u8)
}

/// The TTL of the packets that a host sends.
pub fn ttl_of_host(index: usize) -> u8 {
    TTL_OF_FIRST + 2 * index as u8
}

/// The host that has sent a packet with this TTL, through one router at most.
pub fn host_of_ttl(ttl: u8) -> Option<usize> {
    (0..HOSTS_MAX).find(|&index| [0, 1].contains(&ttl_of_host(index).wrapping_sub(ttl)))
}

fn interface_commands(family: Family, addresses: impl IntoIterator<Item = IpAddr>) -> String {
    let mut commands = String::from("link set lo up\nlink set eth0 up\n");
    for address in addresses {
        commands += &format!("addr add {address}/{} dev eth0\n", family.prefix_length());
    }
    commands
}

/// Waits until the kernel has given eth0 its link-local address. Without a search for duplicates, too, it is
/// tentative until the kernel gets to it (`addrconf_dad_work`), which takes a while on a busy machine.
fn wait_for_link_local() -> Result<()> {
    const LINK_LOCAL: &str = "20";
    const TENTATIVE: u32 = 0x40;
    let begin = Instant::now();
    loop {
        let path = "/proc/thread-self/net/if_inet6";
        let addresses = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        let is_there = addresses.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [_address, _index, _prefix, scope, flags, "eth0"] = fields[..] else {
                return false;
            };
            let flags = u32::from_str_radix(flags, 16);
            scope == LINK_LOCAL && flags.is_ok_and(|flags| flags & TENTATIVE == 0)
        });
        if is_there {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            bail!("eth0 has had no link-local address for {PATIENCE:?}: {addresses}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a tool of the system inside a namespace with `input` on its stdin.
pub fn feed(namespace: &Namespace, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = namespace
        .command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run `{program}`; is it installed?"))?;
    let mut stdin = child.stdin.take().expect("stdin was requested as a pipe");
    // A tool that gave up early closes the pipe; its own message says more.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("wait for `{program}`"))?;
    if !output.status.success() {
        bail!(
            "`{program} {}` failed: {}\nit was given:\n{input}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    written.with_context(|| format!("write to `{program}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_names_its_host() {
        for index in 0..HOSTS_MAX {
            assert_eq!(host_of_ttl(ttl_of_host(index)), Some(index));
            assert_eq!(host_of_ttl(ttl_of_host(index) - 1), Some(index), "behind a router");
        }
        assert_eq!(host_of_ttl(64), None);
    }
}
