//! Other traffic of the host, and other programs that change its rules.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};

use crate::rig::{Lab, VIP, wait_until};

/// A rule of an `inet` table that names no IPv4 address would meet IPv6 as well.
#[test]
fn ipv6_is_left_alone() {
    let Some(lab) = Lab::bare() else { return };
    for (role, address) in [("h1", "fd77::11/64"), ("client", "fd77::200/64")] {
        lab.shell(role, "sysctl -qw net.ipv6.conf.all.disable_ipv6=0");
        lab.shell(role, &format!("ip addr add {address} dev eth0 nodad"));
    }
    let address = (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x11), 8080);
    for guard in ["rst", "strict"] {
        let daemon = lab.start_daemon(1, VIP, &["--guard", guard]);
        let listener = lab.within("h1", || TcpListener::bind(address)).expect("listen on IPv6");
        let client = lab.within("client", || TcpStream::connect(address)).expect("connect by IPv6");
        let (mut server, _) = listener.accept().expect("accept");
        server.write_all(b"hi").expect("send by IPv6");
        drop(server);
        let mut answer = String::new();
        (&client).read_to_string(&mut answer).expect("receive by IPv6");
        assert_eq!(answer, "hi");
        drop(listener);
        let refused = lab.within("client", || TcpStream::connect(address));
        let kind = refused.expect_err("nobody listens").kind();
        assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
        crate::rig::end(daemon, libc::SIGTERM);
    }
}

/// Debian's firewall service flushes the whole ruleset at every reload.
#[test]
fn rules_that_others_flush_are_installed_again() {
    let Some(lab) = Lab::up(2, "rst") else { return };
    let rules = || {
        let text = lab.shell("h1", "nft list ruleset | sed /counter/d");
        // How long the lease still lasts changes all the time.
        let words = text.split(' ').filter(|word| !word.ends_with("ms,") && !word.ends_with("ms"));
        words.collect::<Vec<_>>().join(" ")
    };
    let before = rules();
    lab.shell("h1", "nft flush ruleset");
    wait_until("the rules are back", || rules() == before);
    for _ in 0..20 {
        lab.who().expect("the cluster answers as before");
    }
    assert_eq!(lab.log(1).matches("installed them again").count(), 1, "{}", lab.log(1));
    for family in ["inet", "arp"] {
        lab.shell("h1", &format!("nft flush table {family} clusterd_{VIP}"));
        wait_until("the rules are back", || rules() == before);
    }
}

/// Some network managers remove addresses that they have not added.
#[test]
fn an_address_that_others_remove_is_added_again() {
    let Some(lab) = Lab::up(2, "rst") else { return };
    lab.shell("h1", &format!("ip addr del {VIP}/32 dev eth0"));
    wait_until("the address is back", || {
        lab.shell("h1", "ip -o addr").contains(&format!("{VIP}/32"))
    });
    assert_eq!(lab.log(1).matches("added it again").count(), 1, "{}", lab.log(1));
}
