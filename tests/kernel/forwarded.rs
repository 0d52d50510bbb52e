//! Hosts that have a server behind them by DNAT, as for a container's published port.

use std::net::{IpAddr, TcpStream};
use std::process::Stdio;

use serde_json::Value;

use crate::rig::{FAMILIES, Lab, note, wait_until};

const CONNECTIONS: &str = "60";

/// What the guard does for the host's own TCP it does for the server's, too.
#[test]
fn a_server_behind_the_hosts_is_served_as_their_own() {
    let [v4, v6] = FAMILIES;
    for (family, guard) in [(v4, "rst"), (v4, "strict"), (v6, "rst")] {
        let Some(lab) = Lab::up_with(3, family) else { return };
        let options = ["--guard", guard, "--mode", "claim"];
        (1..=3).for_each(|host| lab.replace_daemon(host, libc::SIGTERM, &options));
        lab.settle();
        // It is where the client is, so that nothing but the hosts has to be a router.
        let mut server = lab.command("client", &["clusterd", "lab", "serve", "--name", "server"]);
        server.args(["--port", "8080"]).args(family);
        let mut server = server.stderr(Stdio::null()).spawn().expect("start a server");
        let address = lab.client_address();
        wait_until("the server listens", || {
            lab.within("client", || TcpStream::connect((address, 8080)).is_ok())
        });
        (1..=3).for_each(|host| forward(&lab, host, address));

        let report = verify(&lab);
        assert_eq!(report["wire"]["resets_by_hosts"], 0, "{family:?} {guard}: {report}");
        lab.lose_claims(true);
        let report = verify(&lab);
        assert_ne!(report["wire"]["duplicates"], 0, "{family:?} {guard}: {report}");
        drop(server.kill());
        drop(server.wait());
    }
}

/// Sends what comes for the virtual IP to `server`, and makes it answer by way of the host.
fn forward(lab: &Lab, host: usize, server: IpAddr) {
    let (family, setting, server) = match server {
        IpAddr::V4(server) => ("ip", "ipv4.ip_forward", server.to_string()),
        IpAddr::V6(server) => ("ip6", "ipv6.conf.all.forwarding", format!("[{server}]")),
    };
    let vip = lab.vip();
    lab.shell(
        &format!("h{host}"),
        &format!(
            "sysctl -qw net.{setting}=1
             nft -f - <<'END'
table {family} forward {{
    chain arriving {{
        type nat hook prerouting priority dstnat
        {family} daddr {vip} tcp dport 80 dnat to {server}:8080
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat
        tcp dport 8080 masquerade
    }}
}}
END"
        ),
    );
}

/// Connects to the virtual IP, which must work each time.
fn verify(lab: &Lab) -> Value {
    let target = match lab.vip() {
        IpAddr::V4(vip) => format!("{vip}:80"),
        IpAddr::V6(vip) => format!("[{vip}]:80"),
    };
    let words = ["clusterd", "verify", "--json", &target, "--connections", CONNECTIONS];
    let output = lab.run("client", &words);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    note(&format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)));
    let report: Value = serde_json::from_str(&stdout).expect("a report in JSON");
    assert_eq!(report["answered"].to_string(), CONNECTIONS, "{report}");
    report
}
