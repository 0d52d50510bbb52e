//! What is simulated: every parameter with its unit, range, default and meaning.
//!
//! A scenario is a TOML file of a few lines over the defaults below. All ways to
//! set something (file, `--set`, a sweep, a swarm) go through [`PARAMETERS`], so each
//! of them knows the same keys, ranges and messages.

mod idle;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::arrivals::Trace;
use crate::delay::Delay;
use crate::fault::Fault;
use crate::setting::{Bounds, Rate, Setting, Share, choice};

/// The key of the list of faults.
pub const FAULTS: &str = "faults";
/// A run goes on for so long after its last connection: most of them end in that time.
pub const COOL_DOWN: Duration = Duration::from_secs(5);

/// The connection that a client opens when it has begun anew may be forgotten like any other: if all were,
/// that would never end.
const REBOOTS_MAX: f64 = 0.9;
/// So much may be lost in bursts: more would be one burst.
const BURSTS_MAX: f64 = 0.9;

choice! {
    /// By which rule the hosts decide who answers.
    Rule {
        /// The production core.
        Clusterd = "clusterd",
        /// clusterd of 2000: the first claim seen wins, whoever claimed at once.
        Original = "original",
        /// A fixed split by the client's address (Hubert 2001).
        Split = "split",
        /// The kernel's hash (CLUSTERIP, xt_cluster), a fixed number of nodes.
        Clusterip = "clusterip",
        /// Blocks of the hash, given out by an elected host (Saru).
        Saru = "saru",
        /// Claims and nothing else, with some way to keep them from crossing.
        Contest = "contest",
        /// An omniscient balancer chooses at random.
        Random = "random",
        /// It chooses the less busy of two that it draws.
        PowerOfTwo = "power-of-two",
        /// It chooses the least busy (JSQ).
        ShortestQueue = "shortest-queue",
    }
}

choice! {
    /// How hosts of the rule `contest` hold their claims back.
    BackOff { /// Not at all.
        None = "none", /// Anything up to the window.
        Uniform = "uniform", /// Truncated exponential: few claim early.
        Exponential = "exponential", /// A window for each rank.
        Rank = "rank" }
}

choice! {
    /// When the production core claims.
    Pacing { /// In the order of ranks.
        Rank = "rank", /// Everybody at once.
        Race = "race" }
}

choice! {
    /// Whether the production core claims at all.
    Mode { /// As it sees fit.
        Auto = "auto", /// Always.
        Claim = "claim", /// Never.
        Hash = "hash" }
}

choice! {
    /// What keeps a host from resetting a client's connection with another one.
    Guard { /// RSTs of flows that are not assured are dropped.
        Rst = "rst", /// The first ACK must name this host's own sequence number.
        Strict = "strict", /// The same, by a kernel module: no ACK waits for the daemon.
        Gate = "gate", /// Only what connection tracking calls INVALID is dropped.
        Invalid = "invalid", /// Nothing.
        None = "none" }
}

choice! {
    /// What connects clients and hosts.
    Medium { /// A store-and-forward switch.
        Switch = "switch", /// One wire for all, CSMA/CD.
        Hub = "hub", /// Switches below a switch.
        Tree = "tree" }
}

choice! {
    /// How connection tracking treats an ACK that does not fit.
    Conntrack { /// Since Linux 6.1: an ACK of far older data is ignored, not INVALID.
        Since6_1 = "6.1", /// Before: it is INVALID.
        Before6_1 = "before-6.1" }
}

choice! {
    /// When a client says its SYN again.
    SynSchedule { /// Waits 1, 1, 1, 1, 1, 2, 4 s... (`tcp_syn_linear_timeouts` = 4, from Linux 6.5 on).
        Linear = "linear", /// After 1, 2, 4 s...
        Exponential = "exponential" }
}

choice! {
    /// Who has something to say first on a new connection.
    FirstWord { /// The client, as in HTTP.
        Client = "client", /// The server, as in SSH or SMTP.
        Server = "server" }
}

choice! {
    /// Who ends a connection, and remembers it for a minute (TIME_WAIT).
    Closes { /// The client, once it has its answer.
        Client = "client", /// The server, once it has given it.
        Server = "server" }
}

choice! {
    /// How a host schedules its daemon.
    Class { /// With real-time priority (SCHED_FIFO): `host.wake`.
        Fifo = "fifo", /// Like any program: `host.wake_normal`.
        Normal = "normal", /// As a virtual machine whose processors are shared: `host.wake_guest`.
        Guest = "guest" }
}

/// How connections arrive.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Independent of each other.
    Poisson,
    /// Equally spaced.
    Regular,
    /// In bursts that are independent of each other.
    Bursts,
    /// As recorded, from the end of the warm-up on.
    Trace {
        /// The name of the file.
        name: String,
        /// What is in it.
        trace: Arc<Trace>,
    },
}

impl Setting for Arrivals {
    const KIND: &'static str = "one of poisson regular bursts, or trace FILE";

    fn read(text: &str) -> Result<Self, String> {
        match text.split_once(' ') {
            None if text == "poisson" => Ok(Self::Poisson),
            None if text == "regular" => Ok(Self::Regular),
            None if text == "bursts" => Ok(Self::Bursts),
            Some(("trace", name)) => {
                let name = name.trim();
                let trace = Trace::read(Path::new(name)).map_err(|error| format!("{error:#}"))?;
                Ok(Self::Trace { name: name.to_owned(), trace: Arc::new(trace) })
            }
            _ => Err(format!("`{text}` is not {}", Self::KIND)),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Poisson => "poisson".to_owned(),
            Self::Regular => "regular".to_owned(),
            Self::Bursts => "bursts".to_owned(),
            Self::Trace { name, .. } => format!("trace {name}"),
        }
    }
}

/// Everything about a run but its seed.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each field is described where PARAMETERS names it")]
pub struct Scenario {
    pub duration: Duration,
    pub warm_up: Duration,
    pub hosts: usize,
    pub rule: Rule,
    pub pacing: Pacing,
    pub mode: Mode,
    pub guard: Guard,
    pub slot: Duration,
    pub slot_adapts: bool,
    pub settle: Duration,
    pub settle_adapts: bool,
    pub own: Duration,
    pub drain: bool,
    pub back_off: BackOff,
    pub window: Duration,
    pub reassert: bool,
    pub owns: bool,
    pub retract: bool,
    pub echo: bool,
    pub medium: Medium,
    pub rate: Rate,
    pub propagation: Duration,
    pub fabric: Delay,
    pub buffer: usize,
    pub background: Share,
    pub leaves: usize,
    pub loss: Share,
    pub claim_loss: Share,
    pub uplink_loss: Vec<Share>,
    pub downlink_loss: Vec<Share>,
    pub uplink_bursts: Vec<Share>,
    pub downlink_bursts: Vec<Share>,
    pub burst_loss: Share,
    pub burst_mean: f64,
    pub duplication: Share,
    pub reordering: Share,
    pub reordering_delay: Delay,
    pub interrupt: Delay,
    pub queueing: Vec<Duration>,
    pub classes: Vec<Class>,
    pub wake: Delay,
    pub wake_normal: Delay,
    pub wake_guest: Delay,
    pub timer_error: Delay,
    pub frame_cost: Duration,
    pub packet_cost: Duration,
    pub verdict_cost: Duration,
    pub answer_cost: Duration,
    pub answer_rest: Delay,
    pub send_cost: Duration,
    pub pauses_per_second: f64,
    pub pause: Delay,
    pub queue: usize,
    pub inbox: usize,
    pub conntrack: Conntrack,
    pub backlog: usize,
    pub syn_cookies: bool,
    pub syn_ack_retries: u32,
    pub speeds: Vec<f64>,
    pub service: Delay,
    pub workers: usize,
    pub first_word: FirstWord,
    pub closes: Closes,
    pub schedule: SynSchedule,
    pub patience: Duration,
    pub access: Delay,
    pub ports: usize,
    pub reboots: Share,
    pub reboot_after: Delay,
    pub arrivals: Arrivals,
    pub connections_per_second: f64,
    pub burst: usize,
    pub flood_per_second: f64,
    pub faults: Vec<Fault>,
}

/// One parameter of a scenario.
pub struct Parameter {
    /// Its name in files and on the command line.
    pub key: &'static str,
    /// What may be written.
    pub kind: &'static str,
    /// That is a list.
    pub is_list: bool,
    /// In which range it must lie, in words; empty where the kind says it all.
    pub range: fn() -> String,
    /// What it means.
    pub help: &'static str,
    /// The unit of its column in tables, as the end of the column's name; empty if it has none.
    pub unit: &'static str,
    /// Writes its value.
    pub show: fn(&Scenario) -> String,
    /// Its value in that unit, if it is a number.
    pub number: fn(&Scenario) -> Option<f64>,
    /// Reads its value in that unit, if it is a number; the range is another matter.
    pub read_number: fn(&str) -> Result<Option<f64>, String>,
    /// Writes this number as its value, if it can be one; the range is another matter.
    pub show_number: fn(f64) -> Option<String>,
    /// Reads and checks its value. The error does not name the key.
    pub set: fn(&mut Scenario, &str) -> Result<(), String>,
}

macro_rules! parameters {
    ($($key:literal, $field:ident: $type:ty $([$least:expr, $most:expr])?, $help:literal;)*) => {
        /// All parameters, in the order of the reference.
        pub const PARAMETERS: &[Parameter] = &[$(
            Parameter {
                key: $key,
                kind: <$type as Setting>::KIND,
                is_list: <$type as Setting>::IS_LIST,
                range: || {
                    #[allow(unused_mut, unused_assignments)]
                    let mut range = String::new();
                    $(range = Bounds::<$type> { least: $least, most: $most }.to_string();)?
                    range
                },
                help: $help,
                unit: <$type as Setting>::UNIT,
                show: |scenario| scenario.$field.show(),
                number: |scenario| scenario.$field.number(),
                read_number: |text| <$type>::read(text).map(|value| value.number()),
                show_number: |number| <$type>::of_number(number).map(|value| value.show()),
                set: |scenario, text| {
                    let value = <$type>::read(text)?;
                    $(Bounds::<$type> { least: $least, most: $most }.check(&value)?;)?
                    scenario.$field = value;
                    Ok(())
                },
            },
        )*];
    };
}

const fn ms(milliseconds: u64) -> Option<Duration> {
    Some(Duration::from_millis(milliseconds))
}

parameters! {
    "run.duration", duration: Duration [ms(1), ms(86_400_000)], "simulated time after the warm-up";
    "run.warm_up", warm_up: Duration [ms(0), ms(86_400_000)], "simulated time before anything is counted; hosts need 1.3 s to join";
    "cluster.hosts", hosts: usize [Some(1), Some(64)], "hosts that share the virtual IP";
    "cluster.rule", rule: Rule, "by which rule they decide who answers";
    "cluster.pacing", pacing: Pacing, "clusterd: when hosts claim";
    "cluster.mode", mode: Mode, "clusterd: whether hosts claim or decide by hash";
    "cluster.guard", guard: Guard, "what keeps a host from resetting connections of others";
    "cluster.slot", slot: Duration [ms(0), ms(1_000)], "S at the start: how long each rank waits for the one before it";
    "cluster.slot_adapts", slot_adapts: bool, "S follows what is measured";
    "cluster.settle", settle: Duration [ms(0), ms(1_000)], "D at the start: how long a doubtful claim settles";
    "cluster.settle_adapts", settle_adapts: bool, "D follows what is measured";
    "cluster.own", own: Duration [ms(1), ms(1_000)], "T_own: how long a claim defers the others";
    "cluster.drain", drain: bool, "hosts read all claims before they decide; false is an ablation";
    "cluster.back_off", back_off: BackOff, "contest: how hosts hold their claims back";
    "cluster.window", window: Duration [ms(0), ms(1_000)], "contest: for how long at most, or between two ranks";
    "cluster.reassert", reassert: bool, "contest: who hears a worse claim says its own again";
    "cluster.owns", owns: bool, "contest: who has answered says so, also to whoever claims then";
    "cluster.retract", retract: bool, "contest: who has answered and hears a better claim takes its answer back; an ablation";
    "cluster.echo", echo: bool, "original: a host sees its own claim when the others get it, not when it leaves";
    "network.medium", medium: Medium, "what connects clients and hosts";
    "network.rate", rate: Rate [Some(Rate(1e6)), Some(Rate(1e11))], "rate of every link, or of the hub";
    "network.propagation", propagation: Duration [ms(0), ms(1)], "along one cable";
    "network.fabric", fabric: Delay, "within a switch, beside reception and queueing";
    "network.buffer", buffer: usize [Some(1_600), None], "bytes that a port of a switch holds";
    "network.background", background: Share [None, Some(Share(0.99))], "share of each host's port that other traffic takes, in full frames";
    "network.leaves", leaves: usize [Some(2), Some(16)], "tree: switches below the top one, hosts on them in turn";
    "network.loss", loss: Share, "frames lost on the way to each receiver, independent of each other";
    "network.claim_loss", claim_loss: Share, "the same, of claim frames only";
    "network.uplink_loss", uplink_loss: Vec<Share>, "frames lost on the cable from each host; the last one holds for all further hosts";
    "network.downlink_loss", downlink_loss: Vec<Share>, "the same on the cable to each host, beside network.loss";
    "network.uplink_bursts", uplink_bursts: Vec<Share>, "the same in bursts (Gilbert-Elliott), on the cable from each host, 0.9 at most";
    "network.downlink_bursts", downlink_bursts: Vec<Share>, "and on the cable to each host, 0.9 at most";
    "network.burst_loss", burst_loss: Share [None, Some(Share(BURSTS_MAX))], "frames lost in bursts (Gilbert-Elliott) at each receiver, all told";
    "network.burst_mean", burst_mean: f64 [Some(1.0), Some(1e6)], "mean length of such a burst, in frames";
    "network.duplication", duplication: Share, "frames that reach a receiver twice";
    "network.reordering", reordering: Share, "frames that others may overtake on the way to a receiver";
    "network.reordering_delay", reordering_delay: Delay, "how much later these come";
    "host.interrupt", interrupt: Delay, "from the end of a frame to socket or queue";
    "host.queueing", queueing: Vec<Duration>, "what a client's segment needs more than a claim until it is in the queue, for connection tracking and rules: at each host; the last one holds for all further hosts";
    "host.classes", classes: Vec<Class>, "how each host schedules its daemon: fifo, normal or guest; the last one holds for all further hosts";
    "host.wake", wake: Delay, "fifo: until the daemon runs once there is something to do";
    "host.wake_normal", wake_normal: Delay, "the same of class normal";
    "host.wake_guest", wake_guest: Delay, "the same of class guest";
    "host.timer_error", timer_error: Delay, "how much too late a timer wakes the daemon";
    "host.frame_cost", frame_cost: Duration [None, ms(1)], "to read a claim frame";
    "host.packet_cost", packet_cost: Duration [None, ms(1)], "to read a held packet or a log entry";
    "host.verdict_cost", verdict_cost: Duration [None, ms(1)], "to give a verdict; the kernel's answer is part of it";
    "host.answer_cost", answer_cost: Duration [None, ms(1)], "how much more until a SYN-ACK leaves, if the verdict is to accept";
    "host.answer_rest", answer_rest: Delay, "how long the daemon is not back yet when the SYN-ACK has left";
    "host.send_cost", send_cost: Duration [None, ms(1)], "to send a claim frame";
    "host.pauses_per_second", pauses_per_second: f64 [Some(0.0), Some(1e4)], "how often a daemon is kept from running, between any two steps";
    "host.pause", pause: Delay, "for how long then";
    "host.queue", queue: usize [Some(1), Some(1_000_000)], "packets that the kernel holds for the daemon";
    "host.inbox", inbox: usize [Some(1), Some(1_000_000)], "claim frames that its socket holds";
    "kernel.conntrack", conntrack: Conntrack, "how connection tracking treats an ACK that does not fit";
    "kernel.backlog", backlog: usize [Some(1), Some(1_000_000)], "bound of the listener's queues: half-open connections, and those that wait for the service";
    "kernel.syn_cookies", syn_cookies: bool, "what is beyond the half-open ones gets a SYN cookie, else nothing";
    "kernel.syn_ack_retries", syn_ack_retries: u32 [Some(0), Some(10)], "SYN-ACKs that are said again, after 1, 3, 7 s...";
    "service.speeds", speeds: Vec<f64>, "capacity of each host, above 0, in units of work per second, shared by all it serves; the last one holds for all further hosts";
    "service.time", service: Delay, "work of one connection, at speed 1";
    "service.workers", workers: usize [Some(1), Some(1_000_000)], "connections that each service accepts at a time; others wait in its accept queue";
    "service.first_word", first_word: FirstWord, "who speaks first";
    "service.closes", closes: Closes, "who closes first, and remembers the connection for 60 s (TIME_WAIT)";
    "client.schedule", schedule: SynSchedule, "when a SYN is said again";
    "client.patience", patience: Duration [ms(1), ms(3_600_000)], "after that a client gives up";
    "client.access", access: Delay, "one way between a client and the segment";
    "client.ports", ports: usize [Some(1), Some(100_000_000)], "address and port pairs; each is used again when all have been";
    "client.reboots", reboots: Share [None, Some(Share(REBOOTS_MAX))], "connections whose client forgets all in their midst, and opens another from the same address and port";
    "client.reboot_after", reboot_after: Delay, "when, after the first SYN";
    "load.arrivals", arrivals: Arrivals, "how connections arrive";
    "load.connections_per_second", connections_per_second: f64 [Some(0.001), Some(1e7)], "how many";
    "load.burst", burst: usize [Some(1), Some(1_000_000)], "connections in a burst";
    "load.flood_per_second", flood_per_second: f64 [Some(0.0), Some(1e7)], "SYNs from addresses that answer nothing";
}

impl Default for Scenario {
    fn default() -> Self {
        let micros = Duration::from_micros;
        let delay = |text: &str| text.parse().expect("a default is well written");
        Self {
            duration: Duration::from_secs(10),
            warm_up: Duration::from_secs(2),
            hosts: 3,
            rule: Rule::Clusterd,
            pacing: Pacing::Rank,
            mode: Mode::Auto,
            guard: Guard::Rst,
            slot: Duration::from_millis(1),
            slot_adapts: true,
            settle: Duration::from_millis(1),
            settle_adapts: true,
            own: Duration::from_millis(20),
            drain: true,
            back_off: BackOff::Rank,
            window: Duration::from_micros(250),
            reassert: false,
            owns: false,
            retract: false,
            echo: false,
            medium: Medium::Switch,
            rate: Rate(1e9),
            propagation: Duration::from_nanos(100),
            fabric: delay("lognormal 3us 0.3"),
            buffer: 131_072,
            background: Share(0.0),
            leaves: 2,
            loss: Share(0.0),
            claim_loss: Share(0.0),
            uplink_loss: vec![Share(0.0)],
            downlink_loss: vec![Share(0.0)],
            uplink_bursts: vec![Share(0.0)],
            downlink_bursts: vec![Share(0.0)],
            burst_loss: Share(0.0),
            burst_mean: 10.0,
            duplication: Share(0.0),
            reordering: Share(0.0),
            reordering_delay: delay("exp 100us"),
            interrupt: delay("exp 1500ns + 1% exp 60us"),
            queueing: vec![Duration::ZERO],
            classes: vec![Class::Fifo],
            wake: delay("lognormal 6us 0.7 + 0.1% exp 300us"),
            wake_normal: delay("lognormal 8us 0.8 + 1% exp 1ms"),
            wake_guest: delay("lognormal 15us 0.8 + 0.5% exp 5ms"),
            timer_error: delay("exp 2us"),
            frame_cost: Duration::from_nanos(700),
            packet_cost: Duration::from_nanos(1_200),
            verdict_cost: micros(4),
            answer_cost: Duration::ZERO,
            answer_rest: Delay::NONE,
            send_cost: micros(3),
            pauses_per_second: 0.0,
            pause: delay("exp 2ms"),
            queue: 8_192,
            inbox: 4_096,
            conntrack: Conntrack::Since6_1,
            backlog: 4_096,
            syn_cookies: true,
            syn_ack_retries: 5,
            speeds: vec![8.0],
            service: delay("exp 1ms"),
            workers: 1_024,
            first_word: FirstWord::Client,
            closes: Closes::Client,
            schedule: SynSchedule::Linear,
            patience: Duration::from_secs(30),
            access: delay("100us"),
            ports: 1_000_000,
            reboots: Share(0.0),
            reboot_after: delay("exp 10ms"),
            arrivals: Arrivals::Poisson,
            connections_per_second: 1_000.0,
            burst: 100,
            flood_per_second: 0.0,
            faults: Vec::new(),
        }
    }
}

/// The parameter of that name.
pub fn parameter(key: &str) -> Result<&'static Parameter, String> {
    PARAMETERS.iter().find(|parameter| parameter.key == key).ok_or_else(|| {
        let name = |key: &'_ str| key.split_once('.').map_or(key, |(_, name)| name).to_owned();
        if name(key) == FAULTS {
            return format!(
                "there is no `{key}`; `{FAULTS}` is a list of its own, before the first table of a file, and \
                 `--fault '2s kill h1'` on the command line"
            );
        }
        // Who forgets the table, or takes another one, should find the key in its own.
        let likeness = |other: &str| {
            let by_name = strsim::jaro_winkler(&name(other), &name(key));
            by_name.max(strsim::jaro_winkler(other, key))
        };
        let nearest = PARAMETERS.iter().map(|parameter| parameter.key);
        let nearest = nearest.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        format!("there is no `{key}`; did you mean `{}`?", nearest.unwrap_or_default())
    })
}

impl Parameter {
    /// The name of its column in tables.
    pub fn column(&self) -> String {
        match self.unit {
            "" => self.key.to_owned(),
            unit => format!("{}_{unit}", self.key),
        }
    }

    /// Its value as tables have it: a number in its unit, or what a scenario says.
    pub fn cell(&self, scenario: &Scenario) -> String {
        (self.number)(scenario).map_or_else(|| (self.show)(scenario), |number| number.to_string())
    }
}

impl Scenario {
    /// Sets one parameter. The error names the key, the range and the way out.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let parameter = parameter(key)?;
        (parameter.set)(self, value).map_err(|error| {
            let range = (parameter.range)();
            let range = if range.is_empty() { range } else { format!(", {range}") };
            format!("{key}: {error} (wanted: {}{range})", parameter.kind)
        })
    }

    /// How fast a host works.
    pub fn speed(&self, host: usize) -> f64 {
        self.speeds.get(host).or(self.speeds.last()).copied().unwrap_or(1.0)
    }

    /// What a segment needs more than a claim at a host.
    pub fn queueing(&self, host: usize) -> Duration {
        self.queueing.get(host).or(self.queueing.last()).copied().unwrap_or_default()
    }

    /// How long the daemon of a host needs to wake up.
    pub fn wake_of(&self, host: usize) -> &Delay {
        match self.classes.get(host).or(self.classes.last()) {
            Some(Class::Normal) => &self.wake_normal,
            Some(Class::Guest) => &self.wake_guest,
            Some(Class::Fifo) | None => &self.wake,
        }
    }

    /// What only together is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.speeds.iter().any(|&speed| speed <= 0.0 || !speed.is_finite()) {
            return Err("service.speeds: a host without any speed serves nobody (wanted: above 0)"
                .to_owned());
        }
        let bursts = [&self.uplink_bursts, &self.downlink_bursts];
        if bursts.into_iter().flatten().any(|share| share.0 > BURSTS_MAX) {
            return Err(format!(
                "network.uplink_bursts, network.downlink_bursts: a cable loses more than {BURSTS_MAX} in bursts (wanted: 0 to {BURSTS_MAX})"
            ));
        }
        let outside = |fault: &&Fault| fault.hosts().any(|host| host >= self.hosts);
        if let Some(fault) = self.faults.iter().find(outside) {
            let hosts = self.hosts;
            return Err(format!("faults: `{fault}`: there are only {hosts} hosts (cluster.hosts)"));
        }
        Ok(())
    }
}
