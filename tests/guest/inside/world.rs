//! A host and a client with a cable between them, in namespaces of the guest.
//!
//! The client takes the virtual IPs to be at the group MAC, as clients of a cluster do. Nobody asks
//! for addresses: each knows those of the other, so that what goes out goes in order.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use super::{is_loaded, shell};

pub const GROUP_MAC: [u8; 6] = [0x03, 0xbf, 10, 9, 0, 100];
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc0];

/// Only for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn vip(self) -> IpAddr {
        self.address(100)
    }

    pub fn host(self) -> IpAddr {
        self.address(11)
    }

    /// Of nobody: what the host sends there arrives at the client, whose kernel ignores it.
    pub fn ghost(self) -> IpAddr {
        self.address(77)
    }

    fn address(self, last: u8) -> IpAddr {
        let text = match self {
            Self::V4 => format!("10.9.0.{last}"),
            Self::V6 => format!("fd00:9::{last}"),
        };
        text.parse().expect("an address")
    }
}

/// The namespaces `host` and `client`, until dropped.
pub struct World(());

impl World {
    pub fn up() -> Self {
        let script = "
            for side in host client; do ip netns add $side; ip -n $side link set lo up; done
            ip -n host link add s0 address 02:00:00:00:00:11 type veth \
                peer name c0 address 02:00:00:00:00:c0 netns client
            for address in 10.9.0.11/24 10.9.0.100/32 fd00:9::11/64 fd00:9::100/128; do
                case $address in *:*) nodad=nodad ;; *) nodad= ;; esac
                ip -n host addr add $address dev s0 $nodad
            done
            ip -n client addr add 10.9.0.200/24 dev c0
            ip -n client addr add fd00:9::200/64 dev c0 nodad
            ip -n host link set s0 up
            ip -n client link set c0 up
            for prefix in 10.9.0. fd00:9::; do
                for last in 200 77; do
                    ip -n host neigh add $prefix$last lladdr 02:00:00:00:00:c0 dev s0 nud permanent
                done
                ip -n client neigh add ${prefix}11 lladdr 02:00:00:00:00:11 dev c0 nud permanent
                ip -n client neigh add ${prefix}100 lladdr 03:bf:0a:09:00:64 dev c0 nud permanent
            done";
        shell(script);
        Self(())
    }

    /// Runs `work` on a thread inside a namespace; sockets made there stay there.
    pub fn within<T: Send>(&self, side: &str, work: impl FnOnce() -> T + Send) -> T {
        within(side, work)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        shell("ip netns del host; ip netns del client");
    }
}

pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file = File::open(format!("/run/netns/{namespace}")).expect("open a namespace");
            // SAFETY: setns takes no pointers; the descriptor is open.
            let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "enter {namespace}: {}", io::Error::last_os_error());
            work()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The module, loaded until dropped.
pub struct Module(());

impl Module {
    pub fn load() -> Self {
        shell("modprobe clusterd");
        Self(())
    }

    /// Writes a command in the namespace `host`.
    pub fn tell(&self, command: &str) -> io::Result<()> {
        tell("host", command)
    }

    /// Asks for a virtual IP, with options.
    pub fn add(&self, vip: IpAddr, options: &str) {
        self.tell(format!("+{vip} {options}").trim_end()).expect("add a virtual IP");
    }

    /// What it counts for an address in the namespace `host`.
    pub fn count(&self, vip: IpAddr, what: &str) -> u64 {
        let listing = listing("host");
        let found = listing.lines().find_map(|line| {
            let mut words = line.split(' ');
            (words.next()?.parse() == Ok(vip)).then_some(())?;
            words.find_map(|word| word.strip_prefix(what)?.strip_prefix('=')?.parse().ok())
        });
        found.unwrap_or_else(|| panic!("{what} of {vip} is not in\n{listing}"))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if !thread::panicking() {
            unload();
        }
    }
}

/// Unloads the module, once the namespaces that use it are gone, which they are soon after their
/// names are.
pub fn unload() {
    wait_until("the module can be unloaded", || {
        shell("rmmod clusterd 2>/dev/null || true");
        !is_loaded()
    });
}

/// Writes a command to the module's file.
pub fn tell(namespace: &str, command: &str) -> io::Result<()> {
    within(namespace, || {
        let mut file = File::options().write(true).open("/proc/thread-self/net/clusterd")?;
        file.write_all(command.as_bytes())
    })
}

/// What the module's file says.
pub fn listing(namespace: &str) -> String {
    within(namespace, || {
        fs::read_to_string("/proc/thread-self/net/clusterd").expect("read the module's file")
    })
}

/// Polls until the condition holds; panics if it never does.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
