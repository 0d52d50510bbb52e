//! The kernel's CLUSTERIP beside clusterd, on the last Debian kernel that has it.

use std::time::Duration;

use crate::fleet::{Fleet, Load, Machine, VIP};
use crate::packages::BOOKWORM;
use crate::{note, run};

/// Each with all contenders in turn.
const ROUNDS: usize = 3;
/// Connections one after the other, so that none waits for another.
const LATENCY: Load = Load { connections: 150, concurrency: 1, patience: Duration::from_secs(60) };
/// While a host is dead.
const DEAD: Load = Load { connections: 90, concurrency: 8, patience: Duration::from_secs(6) };

#[derive(Clone, Copy, Debug)]
enum Contender {
    /// The first host alone has the address.
    OneHost,
    Clusterip,
    Clusterd {
        guard: &'static str,
    },
}

impl Contender {
    const ALL: [Self; 4] = [
        Self::OneHost,
        Self::Clusterip,
        Self::Clusterd { guard: "rst" },
        Self::Clusterd { guard: "strict" },
    ];

    fn up(self, fleet: &Fleet) {
        // The first host alone has a MAC of its own.
        fleet.client.shell("ip neigh flush all");
        match self {
            Self::OneHost => {
                drop(fleet.machines[0].shell(&format!("ip addr add {VIP}/32 dev eth0")))
            }
            Self::Clusterip => {
                let nodes = fleet.machines.len();
                for (machine, node) in fleet.machines.iter().zip(1..) {
                    machine.shell(&format!(
                        "ip addr add {VIP}/32 dev eth0
                         iptables -A INPUT -d {VIP} -i eth0 -j CLUSTERIP --new \\
                             --hashmode sourceip-sourceport --clustermac 03:bf:0a:4d:00:02 \\
                             --total-nodes {nodes} --local-node {node}"
                    ));
                }
            }
            // By hash is what emulated hosts would soon do by themselves, as CLUSTERIP does.
            Self::Clusterd { guard } => {
                fleet.restart_daemons(&format!("--mode claim --guard {guard}"))
            }
        }
    }

    fn down(self, fleet: &Fleet) {
        let no_address = format!("ip addr del {VIP}/32 dev eth0");
        match self {
            Self::OneHost => drop(fleet.machines[0].shell(&no_address)),
            Self::Clusterip => fleet.shell(&format!("iptables -F INPUT; {no_address}")),
            Self::Clusterd { .. } => fleet.end_daemons(),
        }
    }
}

#[test]
#[ignore = "a figure and not a test: make guest-figures"]
fn clusterd_beside_clusterip() {
    run(|| {
        let fleet = Fleet::boot("clusterip", &[BOOKWORM; 3])?;
        fleet.serve();
        let mut medians = [const { Vec::new() }; Contender::ALL.len()];
        for _ in 0..ROUNDS {
            for (contender, medians) in Contender::ALL.into_iter().zip(&mut medians) {
                contender.up(&fleet);
                // The first connections meet what has not settled: neighbours, the measured claim delay.
                fleet.load("warm", Load { connections: 30, ..LATENCY });
                medians.push(fleet.load(&format!("{contender:?}"), LATENCY).median());
                contender.down(&fleet);
            }
        }
        let medians = medians.map(|mut medians| {
            medians.sort();
            medians[ROUNDS / 2]
        });
        let clusterip = medians[1];
        for (contender, median) in Contender::ALL.iter().zip(medians) {
            let ratio = median.as_secs_f64() / clusterip.as_secs_f64();
            note(&format!("{contender:?}: median {median:?}, {ratio:.2} of CLUSTERIP's"));
        }
        for contender in [Contender::Clusterip, Contender::Clusterd { guard: "rst" }] {
            one_dies(&fleet, contender);
        }
        fleet.check();
        Ok(())
    });
}

fn one_dies(fleet: &Fleet, contender: Contender) {
    contender.up(fleet);
    fleet.load(&format!("{contender:?}, three hosts"), DEAD);
    let [survivor, _, dead] = &fleet.machines[..] else { unreachable!("three guests") };
    dead.freeze(true);
    let show = |what: &str| {
        let round = fleet.load(&format!("{contender:?}, {what}"), DEAD);
        let slowest = round.handshakes().max().unwrap_or_default();
        let failed = round.failed().count();
        note(&format!(
            "{contender:?}, {what}: {failed} of {} failed, slowest {slowest:?}",
            DEAD.connections
        ));
    };
    show("h3 dead");
    match contender {
        Contender::Clusterip => {
            take_over(survivor);
            show("h3's share given to h1 by hand");
            dead.freeze(false);
            show("h3 back");
        }
        Contender::OneHost | Contender::Clusterd { .. } => {
            dead.freeze(false);
            fleet.settle();
            show("h3 back");
        }
    }
    contender.down(fleet);
}

/// What an administrator does, or a script: CLUSTERIP itself notices nothing.
fn take_over(survivor: &Machine) {
    survivor.shell(&format!("echo +3 >/proc/net/ipt_CLUSTERIP/{VIP}"));
}
