//! Hosts that answer the virtual IP for servers behind them, by IPVS or DNAT: what README tells under
//! "Servers behind the hosts".

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use crate::fleet::{Fleet, Namespace, Round, VIP, plug_in};
use crate::packages::BOOKWORM;
use crate::run;

/// What the servers answer is for the host that has asked, whichever that is.
const FULL_NAT: &str = "
    nft -f - <<'END'
table ip full_nat {
    chain leaving {
        type nat hook postrouting priority srcnat
        ip daddr { 10.77.0.51, 10.77.0.52 } tcp dport 80 masquerade
    }
}
END";

const IPVS: &str = "
    ipvsadm -A -t 10.77.0.2:80 -s rr
    ipvsadm -a -t 10.77.0.2:80 -r 10.77.0.51:80 -m
    ipvsadm -a -t 10.77.0.2:80 -r 10.77.0.52:80 -m
    sysctl -w net.ipv4.vs.conntrack=1";

const DNAT: &str = "
    nft -f - <<'END'
table ip servers {
    chain arriving {
        type nat hook prerouting priority dstnat
        ip daddr 10.77.0.2 tcp dport 80 dnat to numgen inc mod 2 map { 0 : 10.77.0.51, 1 : 10.77.0.52 }
    }
}
END";

const NO_REDIRECTS: &str = "
    sysctl -w net.ipv4.conf.all.send_redirects=0
    sysctl -w net.ipv4.conf.eth0.send_redirects=0";

/// A server on the segment that does not know of the cluster.
struct Server {
    child: Child,
    namespace: Namespace,
}

impl Server {
    fn start(fleet: &Fleet, number: u8) -> Self {
        let namespace = Namespace::new();
        let name = format!("server{number}");
        plug_in(&fleet.segment, &namespace, &name);
        namespace.shell(&format!("ip addr add 10.77.0.{}/24 dev eth0", 50 + number));
        let mut command = Command::new(env!("CARGO_BIN_EXE_clusterd"));
        command.args(["lab", "serve", "--name", &name]).stderr(Stdio::null());
        let child = namespace.confine(&mut command).spawn().expect("start a service");
        namespace.shell("until ss -tln sport = 80 | grep LISTEN; do sleep 0.05; done");
        Self { child, namespace }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn servers_behind_the_hosts() {
    run(|| {
        let fleet = Fleet::boot("directors", &[BOOKWORM, BOOKWORM])?;
        let servers = [1, 2].map(|number| Server::start(&fleet, number));
        fleet.shell("sysctl -w net.ipv4.ip_forward=1");
        fleet.shell(FULL_NAT);
        fleet.shell(IPVS);
        fleet.restart_daemons("--mode claim");
        served_by_all(&fleet.connect("IPVS, no listener", 60));
        // With a listener hosts compete for the port; none of the connections gets to it.
        fleet.serve();
        served_by_all(&fleet.connect("IPVS", 100));
        fleet.machines[0].signal_daemon("KILL");
        fleet.machines[0].await_end_of_daemon();
        let round = fleet.connect("IPVS, h1's daemon killed", 60);
        round.assert_all_answered();
        assert_eq!(round.answered().len(), 1);
        fleet.machines[0].start_daemon(VIP, "--mode claim");
        fleet.settle();
        for guard in ["rst", "strict"] {
            without_claims(&fleet, "IPVS", &format!("--guard {guard}"));
        }

        // Each host has a server of its own, which answers by way of it and sees the client's address. That
        // the client is its neighbour it must not hear: it would answer past the host.
        fleet.shell("nft delete table ip full_nat; ipvsadm -C");
        fleet.shell(NO_REDIRECTS);
        for ((machine, server), number) in fleet.machines.iter().zip(&servers).zip(1..) {
            machine.shell(&format!(
                "ipvsadm -A -t {VIP}:80 -s rr; ipvsadm -a -t {VIP}:80 -r 10.77.0.5{number}:80 -m"
            ));
            server.namespace.shell(&format!("ip route add 10.77.0.200 via 10.77.0.1{number}"));
        }
        served_by_all(&fleet.connect("IPVS, no masquerading", 60));
        without_claims(&fleet, "IPVS, no masquerading", "");
        for server in &servers {
            server.namespace.shell("ip route del 10.77.0.200");
        }

        fleet.shell(&format!("ipvsadm -C\n{FULL_NAT}\n{DNAT}"));
        served_by_all(&fleet.connect("DNAT", 60));
        without_claims(&fleet, "DNAT", "");
        fleet.check();
        Ok(())
    });
}

/// Every host answers every SYN, each with the number of a server.
fn without_claims(fleet: &Fleet, what: &str, options: &str) {
    fleet.restart_daemons(&format!("--mode claim {options}"));
    fleet.lose_claims();
    let round = fleet.connect(&format!("{what}, no claim heard, {options}"), 100);
    fleet.deliver_claims();
    round.assert_duplicates_are_harmless();
}

#[track_caller]
fn served_by_all(round: &Round) {
    round.assert_all_answered();
    assert_eq!(
        round.shares().into_keys().collect::<BTreeSet<_>>(),
        BTreeSet::from(["server1", "server2"])
    );
    assert_eq!(round.answered().len(), 2, "both hosts have forwarded some");
}
