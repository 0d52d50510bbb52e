//! Several guests, each with its own kernel, and a client on one Ethernet segment.
//!
//! ```text
//!  client (namespace)      h1      h2      h3     (QEMU)
//!     | eth0                | eth0  |       |
//!     |                    tap     tap     tap
//!     +---------------- br0 (namespace) ---+
//! ```
//!
//! Unlike the namespaces of one kernel, these have nothing in common: not the secret of TCP's sequence
//! numbers, not the clock, not a processor's cache, and adapters that filter by MAC. Their clocks are
//! those of the machine, since what they say to each other takes its time outside.

mod machine;
mod namespace;
mod traffic;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

pub use machine::Machine;
pub use namespace::Namespace;
pub use traffic::{Load, Round};

use crate::image::Image;
use crate::packages::Kernel;
use crate::{Outcome, build, note, program};

pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2));
pub const PORT: u16 = 80;

/// For what must happen, on a machine that has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What the bridge does with a frame to a MAC that it has seen.
#[derive(Clone, Copy, Debug)]
pub enum Wiring {
    /// Sends it to every port, as for all others.
    Hub,
    /// Sends it to the port where it has seen it.
    Switch,
}

/// The guests are called h1, h2, ... and have the addresses 10.77.0.11, 12, ... and fd00:77::11, 12, ...
pub struct Fleet {
    /// What the daemons answer, and the client connects to.
    pub vip: IpAddr,
    pub machines: Vec<Machine>,
    pub client: Namespace,
    pub segment: Namespace,
}

impl Fleet {
    /// Boots a guest for each kernel. `name` tells the images of several tests apart.
    pub fn boot(name: &str, kernels: &[&str]) -> Outcome<Self> {
        program("qemu-system-x86_64", "qemu-system-x86")?;
        let mut prepared = BTreeMap::new();
        for &meta in kernels {
            if !prepared.contains_key(meta) {
                let kernel = Kernel::get(meta)?;
                let module = build::module(&kernel)?;
                let image = Image::make(&kernel, &module, name)?;
                prepared.insert(meta, (kernel, image));
            }
        }
        let started = Instant::now();
        let segment = Namespace::new();
        segment.shell(
            "sysctl -qw net.ipv6.conf.default.disable_ipv6=1
             ip link add br0 type bridge mcast_snooping 0
             ip link set br0 up",
        );
        let client = Namespace::new();
        plug_in(&segment, &client, "client");
        client.shell(
            "ip addr add 10.77.0.200/24 dev eth0
             ip addr add fd00:77::200/64 dev eth0 nodad",
        );
        let mut machines = Vec::new();
        for (number, kernel) in (1..).zip(kernels) {
            let (kernel, image) = &prepared[kernel];
            segment.shell(&format!(
                "ip tuntap add h{number} mode tap
                 ip link set h{number} master br0
                 ip link set h{number} up"
            ));
            machines.push(Machine::start(kernel, image, number, &segment));
        }
        let fleet = Self { vip: VIP, machines, client, segment };
        for (number, machine) in (11..).zip(&fleet.machines) {
            machine.wait();
            machine.shell(&format!(
                "modprobe virtio_pci
                 modprobe virtio_net
                 ip link set lo up
                 ip addr add 10.77.0.{number}/24 dev eth0
                 ip addr add fd00:77::{number}/64 dev eth0 nodad
                 ip link set eth0 up"
            ));
        }
        note(&format!("{} guests in {} s", fleet.machines.len(), started.elapsed().as_secs()));
        Ok(fleet)
    }

    /// Starts a TCP service on each guest, for both families, which answers with its name.
    pub fn serve(&self) {
        for machine in &self.machines {
            machine.shell(&format!(
                "clusterd lab serve --ipv6 --name {} >/run/service.log 2>&1 &
                 until grep ready /run/service.log; do sleep 0.05; done",
                machine.name
            ));
        }
    }

    pub fn wire(&self, wiring: Wiring) {
        let ageing = match wiring {
            Wiring::Hub => 0,
            Wiring::Switch => 30_000,
        };
        self.segment.shell(&format!("ip link set br0 type bridge ageing_time {ageing}"));
    }

    /// Drops the frames with claims on their way to all guests.
    pub fn lose_claims(&self) {
        let taps: Vec<_> = self.machines.iter().map(|machine| machine.name.as_str()).collect();
        self.segment.shell(&format!(
            "nft -f - <<'END'\ntable netdev loss {{\nchain to_hosts {{\n\
             type filter hook egress devices = {{ {} }} priority 0\n\
             meta l4proto 150 drop\n}}\n}}\nEND",
            taps.join(", ")
        ));
    }

    /// Delivers them again.
    pub fn deliver_claims(&self) {
        self.segment.shell("nft delete table netdev loss");
    }

    /// Ends the daemons, if there are any, and starts others with these options on all guests.
    pub fn restart_daemons(&self, options: &str) {
        self.end_daemons();
        // The MAC may be another one.
        self.client.shell("ip neigh flush all");
        self.machines.iter().for_each(|machine| machine.start_daemon(self.vip, options));
        self.settle();
    }

    /// Ends the daemons, if there are any, which leave nothing behind.
    pub fn end_daemons(&self) {
        self.machines.iter().for_each(|machine| machine.signal_daemon("TERM"));
        for machine in &self.machines {
            machine.await_end_of_daemon();
            let left =
                machine.shell("nft list tables; ip maddr show dev eth0; ip addr show dev eth0");
            let ours = ["clusterd_", "03:bf:", &format!(" {}/", self.vip)];
            let log = || machine.shell("tail /run/daemon.log");
            assert!(!ours.iter().any(|ours| left.contains(ours)), "{left}\n{}", log());
        }
    }

    /// Waits until every guest ranks all the others.
    pub fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        let others = self.machines.len() - 1;
        for machine in &self.machines {
            loop {
                let status = machine.status(self.vip);
                if status["joined"] == true
                    && status["peers"].as_array().map(Vec::len) == Some(others)
                {
                    break;
                }
                let log = || machine.shell("cat /run/daemon.log");
                assert!(Instant::now() < deadline, "{}: {status}\n{}", machine.name, log());
                // Looking costs the guest more than a little.
                thread::sleep(Duration::from_millis(300));
            }
        }
    }

    /// Opens connections to the virtual IP, and says what became of them: one at a time, since emulated hosts
    /// that share two processors do not hear each other's claims in time while there is more to do.
    pub fn connect(&self, what: &str, connections: usize) -> Round {
        self.load(what, Load { connections, concurrency: 1, patience: PATIENCE })
    }

    pub fn load(&self, what: &str, load: Load) -> Round {
        let round = Round::run(&self.client, SocketAddr::new(self.vip, PORT), load);
        note(&format!("{what}: {round}"));
        round
    }

    /// Runs a line of the shell in all guests.
    pub fn shell(&self, line: &str) {
        self.machines.iter().for_each(|machine| drop(machine.shell(line)));
    }

    /// No kernel has complained.
    pub fn check(&self) {
        self.machines.iter().for_each(Machine::check);
    }
}

/// Lays a cable from the bridge, where its end is called `name`, to a namespace, where it is `eth0`.
pub fn plug_in(segment: &Namespace, namespace: &Namespace, name: &str) {
    segment.shell(&format!(
        "ip link add {name} type veth peer name eth0 netns {}
         ip link set {name} master br0
         ip link set {name} up",
        namespace.path()
    ));
    namespace.shell("ip link set eth0 up");
}
