//! Loading and unloading, again and again, while packets come and namespaces go.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::connection::HalfOpen;
use crate::inside::prober::Prober;
use crate::inside::world::{Family, Module, World, tell, unload};
use crate::inside::{dmesg, is_guest, is_loaded, say, shell};

const LIVES: usize = 8;
/// A module that is not the distribution's (O), and not signed by it (E).
const TAINTS: u64 = 1 << 12 | 1 << 13;

#[test]
#[ignore = "runs in a guest"]
fn lives_leave_no_trace() {
    if !is_guest() {
        return;
    }
    let world = World::up();
    assert!(!trace_of_hooks());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for family in Family::BOTH {
            let mut prober = Prober::open(&world, family);
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Nobody listens: the answer is a RST, or nothing.
                    let syn = HalfOpen::syn(&mut prober);
                    prober.ask(syn);
                    // Enough for each moment of a life, and the rest is for the others.
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
        let _end = End(&over);
        for life in 0..LIVES {
            live(life);
        }
    });
    assert!(!is_loaded());
    assert!(!trace_of_hooks());
    let symbols = fs::read_to_string("/proc/kallsyms").expect("read the symbols");
    assert!(!symbols.contains("[clusterd]"));
    assert!(!world.within("host", || Path::new("/proc/thread-self/net/clusterd").exists()));
    let tainted = fs::read_to_string("/proc/sys/kernel/tainted").expect("read the taint");
    let tainted: u64 = tainted.trim().parse().expect("a number");
    assert_eq!(tainted & !TAINTS, 0, "{tainted}");
    for word in ["WARNING:", "BUG:", "Oops", "Call Trace", "leak"] {
        assert!(!dmesg().contains(word), "{}", dmesg());
    }
    say(&format!("{LIVES} lives of the module, taint {tainted}"));
}

/// Says that it is over, also in a panic: whoever listens is waited for.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One life: in a namespace that stays and in one that goes, in either order.
fn live(life: usize) {
    let module = Module::load();
    let other = format!("other{life}");
    shell(&format!("ip netns add {other}"));
    for vip in Family::BOTH.map(Family::vip) {
        module.add(vip, "gate log=1");
        tell(&other, &format!("+{vip} gate")).expect("add it there, too");
    }
    assert!(trace_of_hooks() || !can_list_hooks());
    // With traffic it has something to do.
    for vip in Family::BOTH.map(Family::vip) {
        crate::inside::world::wait_until("packets come", || module.count(vip, "rewritten") > 0);
    }
    let refused = Command::new("rmmod").arg("clusterd").output().expect("run rmmod");
    let reason = String::from_utf8_lossy(&refused.stderr);
    assert!(reason.contains("in use"), "{reason}");
    let leave = || {
        for vip in Family::BOTH.map(Family::vip) {
            tell("host", &format!("-{vip}")).expect("remove it");
        }
    };
    // The other namespace takes its addresses with it.
    if life.is_multiple_of(2) {
        leave();
        shell(&format!("ip netns del {other}"));
    } else {
        shell(&format!("ip netns del {other}"));
        leave();
    }
    drop(module);
    unload();
}

/// Only newer kernels of Debian can.
fn can_list_hooks() -> bool {
    shell("ls /lib/modules/*/kernel/net/netfilter").contains("nfnetlink_hook")
}

/// Is a hook of the module registered in the namespace `host`, as far as the kernel says?
fn trace_of_hooks() -> bool {
    shell("ip netns exec host nft list hooks").contains("clusterd")
}
