//! What the module refuses, and how it says so.

use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use crate::inside::world::{Module, World, listing, unload};
use crate::inside::{dmesg, is_guest, is_loaded, shell};

const VIPS_MAX: &str = "/sys/module/clusterd/parameters/vips_max";

#[test]
#[ignore = "runs in a guest"]
fn wrong_values_are_refused_with_a_reason() {
    if !is_guest() {
        return;
    }
    for value in ["0", "1025", "-1", "many", "4294967297"] {
        let parameter = format!("vips_max={value}");
        let output = Command::new("modprobe").args(["clusterd", &parameter]).output();
        let output = output.expect("run modprobe");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("Invalid argument"), "{parameter}: {stderr}");
        assert!(!is_loaded(), "{parameter}");
        let reason = format!("clusterd: {parameter} is not a number from 1 to 1024");
        assert!(dmesg().contains(&reason), "{}", dmesg());
    }
}

#[test]
#[ignore = "runs in a guest"]
fn there_is_room_for_as_many_addresses_as_were_allowed() {
    if !is_guest() {
        return;
    }
    let _world = World::up();
    shell("modprobe clusterd vips_max=2");
    let module = Module::load();
    assert_eq!(fs::read_to_string(VIPS_MAX).expect("read the parameter").trim(), "2");
    for command in ["+10.0.0.1", "+2001:db8::2 gate", "+10.0.0.1 gate log=7"] {
        module.tell(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    let error = module.tell("+10.0.0.3").expect_err("no room");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(dmesg().contains("clusterd: no room: 2 virtual IPs in this namespace, vips_max=2"));
    let error = fs::write(VIPS_MAX, "0").expect_err("out of range");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    fs::write(VIPS_MAX, "3").expect("more room");
    module.tell("+10.0.0.3").expect("there is room now");
    let mut lines: Vec<_> = listing("host").lines().map(str::to_owned).collect();
    lines.sort();
    let counts = "rewritten=0 wrong=0 unknown=0";
    assert_eq!(
        lines,
        [
            format!("10.0.0.1 gate=1 log=7 {counts}"),
            format!("10.0.0.3 gate=0 {counts}"),
            format!("2001:db8::2 gate=1 {counts}"),
        ]
    );
    assert_eq!(listing("client"), "", "each namespace has its own");
    for vip in ["10.0.0.1", "10.0.0.3", "2001:db8::2"] {
        module.tell(&format!("-{vip}")).expect("remove it");
    }
    let error = module.tell("-10.0.0.1").expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    drop(module);
    unload();
}

#[test]
#[ignore = "runs in a guest"]
fn wrong_commands_are_refused_with_a_reason() {
    if !is_guest() {
        return;
    }
    let _world = World::up();
    let module = Module::load();
    let long = format!("+{}", "1".repeat(4_000));
    for (command, reason) in [
        ("10.0.0.2", "'10.0.0.2' is not +ADDRESS [gate] [log=GROUP], or -ADDRESS"),
        ("+", "'' is not a unicast address"),
        ("+10.0.0", "'10.0.0' is not a unicast address, as 10.0.0.2 or 2001:db8::2 is"),
        ("+224.0.0.1", "'224.0.0.1' is not a unicast address"),
        ("-::1", "'::1' is not a unicast address"),
        ("+::ffff:10.0.0.2", "'::ffff:10.0.0.2' is not a unicast address"),
        ("+10.0.0.2 gates", "option 'gates' is not gate or log=GROUP (0 to 65535)"),
        ("+10.0.0.2 log=65536", "option 'log=65536' is not gate or log=GROUP (0 to 65535)"),
        ("-10.0.0.2 gate", "-10.0.0.2 takes no options, found 'gate'"),
        (&long, "is not a unicast address"),
    ] {
        let error = module.tell(command).expect_err(command);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{command}");
        assert!(dmesg().contains(reason), "{command}: {}", dmesg());
    }
    assert_eq!(listing("host"), "");
}
