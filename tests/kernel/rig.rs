//! Labs for the tests: raised by the built binary, always taken down.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

pub const BINARY: &str = env!("CARGO_BIN_EXE_clusterd");
/// What the lab answers, with IPv4 and with IPv6.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);
pub const PORT: u16 = 80;
pub const GROUP_MAC: [u8; 6] = [0x03, 0xbf, 10, 77, 0, 2];

/// How long something that must happen may take. Far above what anything here
/// needs, since the machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Labs of these tests are called `kt-PID-NUMBER`.
const PREFIX: &str = "kt";

/// The MAC modes, and a kind of switch on which each works.
pub const MAC_MODES: [(&str, &str); 4] =
    [("multicast", "switch"), ("igmp", "mac-snooping"), ("stealth", "snooping"), ("shared", "hub")];

/// The families, as options of `lab up`.
pub const FAMILIES: [&[&str]; 2] = [&[], &["--ipv6"]];

/// The MAC that the VIP resolves to, by spec 9.1. The cluster id of [`VIP6`] is dd8be76a, by an
/// implementation of SipHash that shares nothing with the daemon's.
pub fn cluster_mac(vip: IpAddr, mode: &str) -> [u8; 6] {
    match (vip, mode) {
        (IpAddr::V4(_), "multicast") => GROUP_MAC,
        (IpAddr::V4(_), "igmp") => [0x01, 0x00, 0x5e, 0x7f, 0, 2],
        (IpAddr::V4(_), "stealth") => [0x02, 0xbf, 10, 77, 0, 2],
        (IpAddr::V4(_), "shared") => [0x02, 0xbe, 10, 77, 0, 2],
        (IpAddr::V6(_), "multicast") => [0x03, 0xbf, 0xdd, 0x8b, 0xe7, 0x6a],
        (IpAddr::V6(_), "igmp") => [0x33, 0x33, 0x9d, 0x8b, 0xe7, 0x6a],
        (IpAddr::V6(_), "stealth") => [0x02, 0xbf, 0xdd, 0x8b, 0xe7, 0x6a],
        (IpAddr::V6(_), "shared") => [0x02, 0xbe, 0xdd, 0x8b, 0xe7, 0x6a],
        (_, other) => panic!("there is no mode {other}"),
    }
}

/// A MAC as tools print it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A lab that stands until it is dropped. Hosts count from 1, as their names do.
pub struct Lab {
    name: String,
    vip: IpAddr,
    /// Process ids of daemon and service by host. A bare lab has none.
    hosts: RefCell<Vec<Pids>>,
    /// Processes this test has started in the lab.
    children: RefCell<Vec<Child>>,
    /// Held as long as the lab stands.
    _turn: Turn,
}

#[derive(Clone, Copy)]
struct Pids {
    daemon: u32,
    service: u32,
}

impl Lab {
    /// Raises a cluster, or prints why this machine cannot.
    pub fn up(nodes: usize, guard: &str) -> Option<Self> {
        Self::up_with(nodes, &["--guard", guard])
    }

    /// The same with options of `lab up`.
    pub fn up_with(nodes: usize, options: &[&str]) -> Option<Self> {
        let nodes = nodes.to_string();
        let ipv6 = options.contains(&"--ipv6");
        let mut lab = Self::reserve(if ipv6 { VIP6.into() } else { VIP.into() })?;
        let mut words = vec!["lab", "up", "--name", &lab.name, "--json", "--nodes", &nodes];
        words.extend(options);
        let output = clusterd(&words);
        // Exit code 69 of a daemon is a missing kernel feature, by its own account.
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if stderr.contains("exit status: 69") {
            return skip(&stderr);
        }
        assert!(output.status.success(), "lab up: {stderr}");
        let description: Value = serde_json::from_slice(&output.stdout).expect("lab up is JSON");
        let pid = |value: &Value| value.as_u64().expect("a process id") as u32;
        let pids = |host: &Value| Pids {
            daemon: pid(&host["daemon_pid"]),
            service: pid(&host["service_pid"]),
        };
        let hosts = description["hosts"].as_array().expect("hosts");
        lab.hosts.get_mut().extend(hosts.iter().map(pids));
        lab.settle();
        Some(lab)
    }

    /// Raises one host and one client with a cable between them and no daemon.
    pub fn bare() -> Option<Self> {
        Self::bare_for(VIP.into())
    }

    /// The same with addresses of the family of this virtual IP.
    pub fn bare_for(vip: IpAddr) -> Option<Self> {
        let lab = Self::reserve(vip)?;
        let (host, client) = (lab.namespace("h1"), lab.namespace("client"));
        for namespace in [&host, &client] {
            lab.ip(&["netns", "add", namespace]);
            lab.ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        // Else addresses change on their own (duplicate address detection).
        let setting = match vip {
            IpAddr::V4(_) => "all.disable_ipv6=1",
            IpAddr::V6(_) => "default.accept_dad=0",
        };
        for role in ["h1", "client"] {
            lab.shell(role, &format!("sysctl -qw net.ipv6.conf.{setting}"));
        }
        lab.ip(&[
            "-n", &host, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
            &client,
        ]);
        for (namespace, address) in [(&host, lab.host_address(1)), (&client, lab.client_address())]
        {
            let length = if vip.is_ipv4() { 24 } else { 64 };
            lab.ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("{address}/{length}"),
                "dev",
                "eth0",
            ]);
            lab.ip(&["-n", namespace, "link", "set", "eth0", "up"]);
        }
        Some(lab)
    }

    /// A free name, and room on the machine.
    fn reserve(vip: IpAddr) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let turn = take_place()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            name: format!("{PREFIX}-{}-{number}", std::process::id()),
            vip,
            hosts: RefCell::default(),
            children: RefCell::default(),
            _turn: turn,
        })
    }

    /// Waits until every host ranks all the others.
    pub fn settle(&self) {
        let nodes = self.nodes();
        for host in 1..=nodes {
            wait_until("all hosts know each other", || {
                let status = self.status(host);
                status["joined"] == true
                    && status["peers"].as_array().map(Vec::len) == Some(nodes - 1)
            });
        }
    }

    /// What the hosts answer.
    pub fn vip(&self) -> IpAddr {
        self.vip
    }

    /// A host's own address.
    pub fn host_address(&self, host: usize) -> IpAddr {
        match self.vip {
            IpAddr::V4(_) => Ipv4Addr::new(10, 77, 0, 10 + host as u8).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x10 + host as u16).into(),
        }
    }

    /// The client's address.
    pub fn client_address(&self) -> IpAddr {
        match self.vip {
            IpAddr::V4(_) => Ipv4Addr::new(10, 77, 0, 200).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0x200).into(),
        }
    }

    /// Any address of the family.
    pub fn unspecified(&self) -> IpAddr {
        match self.vip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    pub fn nodes(&self) -> usize {
        self.hosts.borrow().len()
    }

    pub fn daemon(&self, host: usize) -> u32 {
        self.hosts.borrow()[host - 1].daemon
    }

    pub fn service(&self, host: usize) -> u32 {
        self.hosts.borrow()[host - 1].service
    }

    pub fn namespace(&self, role: &str) -> String {
        format!("clab-{}-{role}", self.name)
    }

    /// Runs `work` on a thread inside a namespace; sockets made there stay there.
    pub fn within<T: Send>(&self, role: &str, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.namespace(role));
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&path);
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `clusterd lab exec`, not started yet.
    pub fn command(&self, role: &str, words: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["lab", "exec", "--name", &self.name, role]).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command in a namespace to its end, however it ends.
    pub fn run(&self, role: &str, words: &[&str]) -> Output {
        self.command(role, words).output().expect("lab exec runs")
    }

    /// Runs a shell line that must succeed, and returns what it printed.
    pub fn shell(&self, role: &str, line: &str) -> String {
        let output = self.run(role, &["sh", "-c", line]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}` in {role}: {stderr}");
        String::from_utf8(output.stdout).expect("tools print UTF-8")
    }

    /// Starts a daemon and waits for its ready line.
    pub fn start_daemon(&self, host: usize, vip: impl Into<IpAddr>, options: &[&str]) -> u32 {
        // Where the lab's own daemons keep theirs; it goes with the lab.
        let state = self.state_directory();
        let mut words = vec!["--state-dir", &state];
        words.extend(options);
        self.start_program("clusterd", host, vip, &words)
    }

    /// Starts the daemon of some version and waits for its ready line.
    pub fn start_program(
        &self,
        program: &str,
        host: usize,
        vip: impl Into<IpAddr>,
        options: &[&str],
    ) -> u32 {
        let vip = vip.into();
        let address = vip.to_string();
        let mut words = vec![program, "eth0", &address];
        words.extend(options);
        let pid = self.start(host, &words);
        if let Some(pids) = self.hosts.borrow_mut().get_mut(host - 1)
            && vip == self.vip
        {
            pids.daemon = pid;
        }
        pid
    }

    /// Ends a host's daemon with a signal and starts another with these options.
    pub fn replace_daemon(&self, host: usize, with: libc::c_int, options: &[&str]) {
        end(self.daemon(host), with);
        self.start_daemon(host, self.vip, options);
    }

    /// The switch loses all claim frames to hosts, or none.
    pub fn lose_claims(&self, all: bool) {
        let line = if all {
            let ports: Vec<_> = (1..=self.nodes()).map(|host| format!("h{host}")).collect();
            format!(
                "nft -f - <<'END'\ntable netdev loss {{\nchain to_hosts {{\n\
                 type filter hook egress devices = {{ {} }} priority 0\n\
                 meta l4proto 150 drop\n}}\n}}\nEND",
                ports.join(", ")
            )
        } else {
            "nft delete table netdev loss".to_owned()
        };
        self.shell("switch", &line);
    }

    /// Starts the lab's service and waits for its ready line.
    pub fn start_service(&self, host: usize) {
        self.start_service_with(host, self.vip.is_ipv6());
    }

    /// The same on addresses of both families.
    pub fn start_service_of_both(&self, host: usize) {
        self.start_service_with(host, true);
    }

    fn start_service_with(&self, host: usize, ipv6: bool) {
        let name = format!("h{host}");
        let mut words = vec!["clusterd", "lab", "serve", "--name", &name];
        if ipv6 {
            words.push("--ipv6");
        }
        let pid = self.start(host, &words);
        self.hosts.borrow_mut()[host - 1].service = pid;
    }

    fn start(&self, host: usize, words: &[&str]) -> u32 {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = scratch(&format!("{}-{number}.log", self.name));
        let file = File::create(&log).expect("create a log");
        let mut command = self.command(&format!("h{host}"), words);
        command.stdout(Stdio::null()).stderr(file);
        let mut child = command.spawn().expect("start a process in the lab");
        let pid = child.id();
        wait_until("the process is ready", || {
            let text = fs::read_to_string(&log).expect("read a log");
            if let Some(status) = child.try_wait().expect("wait for a child") {
                panic!("{words:?} ended with {status}: {text}");
            }
            text.contains("ready")
        });
        fs::remove_file(&log).expect("remove a log");
        self.children.borrow_mut().push(child);
        pid
    }

    /// What `clusterd status --json` says on a host.
    pub fn status(&self, host: usize) -> Value {
        let words = ["clusterd", "status", "--json", &self.vip.to_string()];
        let output = self.run(&format!("h{host}"), &words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "status of h{host}: {stderr}");
        serde_json::from_slice(&output.stdout).expect("status is JSON")
    }

    /// Where daemons of the lab remember its members.
    pub fn state_directory(&self) -> String {
        format!("/run/clusterd-lab/{}", self.name)
    }

    /// The common log of the daemon and service that `lab up` started.
    pub fn log(&self, host: usize) -> String {
        let path = format!("/run/clusterd-lab/{}/h{host}.log", self.name);
        fs::read_to_string(path).expect("read a host's log")
    }

    /// How many members each host has kept for its next start.
    pub fn kept_rosters(&self) -> Vec<usize> {
        let entries = fs::read_dir(self.state_directory()).expect("the lab");
        let paths = entries.flatten().map(|entry| entry.path());
        let files = paths.filter(|path| path.extension().is_some_and(|ext| ext == "json"));
        let members = |path: PathBuf| {
            let text = fs::read_to_string(path).expect("read a state file");
            let state: Value = serde_json::from_str(&text).expect("a state file is JSON");
            state["roster"].as_array().map_or(0, Vec::len)
        };
        files.map(members).collect()
    }

    fn ip(&self, words: &[&str]) {
        let output = Command::new("ip").args(words).output().expect("run ip");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {words:?}: {stderr}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = clusterd(&["lab", "down", "--name", &self.name]);
        for child in self.children.get_mut() {
            // A lab that is down has no processes; one that is not must not hang the test.
            drop(child.kill());
            drop(child.wait());
        }
        if !down.status.success() && !thread::panicking() {
            panic!("lab down: {}", String::from_utf8_lossy(&down.stderr));
        }
    }
}

/// Labs that stand at a time, also among processes: most of them wait for most of the time, and more
/// would starve each other of two cores.
const PLACES: [&str; 3] = ["place-0", "place-1", "place-2"];

/// The right to use the machine, beside one other test or alone, until it is dropped.
pub struct Turn {
    _places: Vec<File>,
}

/// Waits until there is room for one more lab, or prints why this test cannot run.
fn take_place() -> Option<Turn> {
    require_namespaces()?;
    let places = PLACES.map(place);
    let free = places.iter().position(|place| place.try_lock().is_ok());
    let mut places = places.into_iter();
    let place = places.nth(free.unwrap_or(0))?;
    if free.is_none() {
        place.lock().expect("lock a place");
    }
    remove_orphans();
    Some(Turn { _places: vec![place] })
}

/// Waits until there is no other lab, for what needs both cores or looks at times; or prints why this
/// test cannot run.
pub fn take_turn() -> Option<Turn> {
    require_namespaces()?;
    // In one order, so that nobody waits in a circle.
    let places = PLACES.map(place);
    places.iter().for_each(|place| place.lock().expect("lock a place"));
    remove_orphans();
    Some(Turn { _places: places.into() })
}

fn place(name: &str) -> File {
    File::create(scratch(name)).expect("create a lock file")
}

fn require_namespaces() -> Option<()> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return skip("needs root for network namespaces");
    }
    for tool in ["ip", "nft", "sysctl"] {
        if let Err(error) = Command::new(tool).arg("--version").output() {
            return skip(&format!("needs the program {tool}: {error}"));
        }
    }
    Some(())
}

/// Takes down labs of test processes that were killed.
fn remove_orphans() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = file.strip_prefix(&format!("clab-{PREFIX}-")) else { continue };
        let mut words = rest.split('-');
        let (Some(pid), Some(number)) = (words.next(), words.next()) else { continue };
        if !PathBuf::from(format!("/proc/{pid}")).exists() {
            clusterd(&["lab", "down", "--name", &format!("{PREFIX}-{pid}-{number}")]);
        }
    }
}

pub fn skip<T>(reason: &str) -> Option<T> {
    assert!(std::env::var_os("CLUSTERD_REQUIRE_KERNEL").is_none(), "cannot run: {reason}");
    note(&format!("skipped: {reason}"));
    None
}

/// Prints also when the test passes: libtest captures what `eprintln!` says.
pub fn note(text: &str) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("test");
    drop(writeln!(std::io::stderr(), "{name}: {}", text.trim_end()));
}

/// A file of ours, outside the source tree.
pub fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

pub fn clusterd(words: &[&str]) -> Output {
    Command::new(BINARY).args(words).output().expect("run clusterd")
}

/// Moves the calling thread into the namespace at `path`.
pub fn enter(path: &str) {
    let file = File::open(path).expect("open a namespace");
    // SAFETY: setns takes no pointers; the descriptor is open.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "enter {path}: {}", std::io::Error::last_os_error());
}

/// Polls until the condition holds; panics if it never does.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(POLL);
    }
}

pub fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: kill takes no pointers.
    let result = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(result, 0, "signal {pid}: {}", std::io::Error::last_os_error());
}

/// Sends a signal and waits for the end of the process.
pub fn end(pid: u32, with: libc::c_int) {
    signal(pid, with);
    wait_until("the process has ended", || !is_alive(pid));
}

/// Whether any of its threads runs or sleeps; a zombie does neither. The first thread can be a
/// zombie while others still hold the open files.
pub fn is_alive(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let state = fs::read_to_string(thread.path().join("stat")).ok().and_then(|stat| {
            let (_, rest) = stat.rsplit_once(") ")?;
            rest.chars().next()
        });
        state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
    })
}
