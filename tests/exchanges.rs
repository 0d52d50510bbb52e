//! The exchanges of `proto-spec/vectors/exchanges.txt`, replayed: what is written there
//! follows from the specification, so where the core differs one of them is wrong.

#[path = "common/words.rs"]
mod words;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clusterd::bucket::Buckets;
use clusterd::flow::{AttemptId, ClusterKey, FlowKey, ServicePort};
use clusterd::protocol::{
    Config, Instant, KernelShare, Listener, Member, Mode, Node, Output, Syn, Ticket, Timers,
    Verdict, Vips,
};
use clusterd::wire::{Frame, Header, MAJOR, MINOR};

use words::{entry, flags, id, incarnation, node, vip_hash};

const EXCHANGES: &str = include_str!("../proto-spec/vectors/exchanges.txt");
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn every_exchange_goes_as_written() {
    let attempts = attempts();
    let exchanges = EXCHANGES.split("\n\n").filter(|block| block.starts_with("exchange: "));
    let replayed = exchanges.map(|block| Exchange::parse(block, &attempts).replay()).count();
    assert_eq!(replayed, 47);
}

/// What a node does, but for its log.
#[derive(Debug, PartialEq)]
enum Action {
    Decide(Ticket, Verdict),
    Destroy(FlowKey),
    Block(FlowKey),
    Inquire(FlowKey),
    /// It serves so many buckets.
    Buckets(usize),
    Send(Frame),
}

struct Attempt {
    flow: FlowKey,
    isn: u32,
    id: AttemptId,
}

type Attempts = BTreeMap<&'static str, Attempt>;

/// `attempt: NAME ID PROTOCOL CLIENT SERVICE ISN [in VIP]`
fn attempts() -> Attempts {
    let lines = EXCHANGES.lines().filter_map(|line| line.strip_prefix("attempt: "));
    let parse = |line: &'static str| {
        let (line, cluster) = match line.split_once(" in ") {
            Some((line, vip)) => (line, Some(vip.parse::<IpAddr>().expect("an address"))),
            None => (line, None),
        };
        let [name, id, protocol, client, service, isn] = words(line);
        let address = |text: &str| text.parse::<SocketAddr>().expect("address and port");
        let (client, service) = (address(client), address(service));
        let flow = match protocol {
            "tcp" => FlowKey::tcp(client, service),
            "udp" => FlowKey::udp(client, service),
            _ => panic!("no protocol is called {protocol}"),
        };
        let attempt = Attempt { flow, isn: number(isn) as u32, id: self::id(id) };
        let cluster = ClusterKey::public(cluster.unwrap_or(service.ip()));
        let computed = cluster.attempt(&flow, attempt.isn);
        assert_eq!(computed, attempt.id, "{name}");
        (name, attempt)
    };
    lines.map(parse).collect()
}

/// Lines of one time: what happens and what is done.
struct Turn {
    at: Instant,
    events: Vec<&'static str>,
    actions: Vec<Action>,
}

struct Exchange<'a> {
    name: &'static str,
    node: Node,
    vip: IpAddr,
    attempts: &'a Attempts,
    peers: Vec<Header>,
    /// The buckets of which the kernel was told last.
    buckets: Option<Buckets>,
    turns: Vec<Turn>,
}

impl<'a> Exchange<'a> {
    fn parse(block: &'static str, attempts: &'a Attempts) -> Self {
        let (script, head): (Vec<&str>, Vec<&str>) =
            block.lines().partition(|line| line.starts_with(|first: char| first.is_ascii_digit()));
        let head: BTreeMap<_, _> =
            head.iter().map(|line| line.split_once(": ").expect("word: value")).collect();
        let listed = |word| head.get(word).into_iter().flat_map(|nodes| nodes.split(' '));
        let vip: IpAddr = head.get("vip").unwrap_or(&"10.0.0.2").parse().expect("an address");
        let mut config = Config::new(node("00000001"), 0x100, vip);
        let further = listed("further").map(|vip| vip.parse().expect("an address"));
        config.vips = Vips::new(vip, further).expect("a list of virtual IPs");
        config.mode = match head.get("mode") {
            None | Some(&"auto") => Mode::Auto,
            Some(&"claim") => Mode::Claim,
            Some(&"hash") => Mode::Hash,
            Some(other) => panic!("no mode is called {other}"),
        };
        config.roster = listed("roster").map(member).collect();
        if head.get("timers") != Some(&"specified") {
            let (hello, suspect, dead) = (HOUR, 2 * HOUR, 3 * HOUR);
            let listen = Duration::ZERO;
            config.timers = Timers { hello, suspect, dead, listen, ..config.timers };
        }
        let flags = flags(head.get("peer-flags").unwrap_or(&""));
        let peers = listed("peers").map(|it| Header { flags, ..Header::new(node(it), 1, 1) });
        let mut exchange = Self {
            name: head["exchange"],
            node: Node::new(config, Instant::default()),
            vip,
            attempts,
            peers: peers.collect(),
            buckets: None,
            turns: Vec::new(),
        };
        exchange.turns = exchange.parse_turns(&script);
        exchange
    }

    fn parse_turns(&self, script: &[&'static str]) -> Vec<Turn> {
        let mut turns: Vec<Turn> = Vec::new();
        for line in script {
            let (at, rest) = line.split_once(' ').expect("time and event");
            let millis: f64 = at.parse().expect("milliseconds");
            let at = Instant::from_micros((millis * 1000.0).round() as u64);
            if turns.last().is_none_or(|turn| turn.at != at) {
                assert!(turns.last().is_none_or(|turn| turn.at < at), "{}: {line}", self.name);
                turns.push(Turn { at, events: Vec::new(), actions: Vec::new() });
            }
            let turn = turns.last_mut().expect("a turn was begun");
            match rest.split_once(' ') {
                Some((">", event)) => turn.events.push(event),
                Some(("<", action)) => turn.actions.push(self.action(action)),
                _ => assert_eq!(rest, "end", "{}", self.name),
            }
        }
        turns
    }

    fn replay(mut self) {
        self.introduce_peers();
        for turn in std::mem::take(&mut self.turns) {
            let place = format!("{} at {:?}", self.name, turn.at);
            while self.node.poll_timeout() < turn.at {
                let between = self.node.poll_timeout();
                let actions = self.run(between);
                assert_eq!(actions, [], "{place}: done before, at {between:?}");
            }
            turn.events.iter().for_each(|event| self.happen(turn.at, event));
            assert_eq!(self.run(turn.at), turn.actions, "{place}");
        }
    }

    /// What precedes every script with peers.
    fn introduce_peers(&mut self) {
        let (start, met) = (Instant::default(), Instant::from_micros(1_000));
        if !self.peers.is_empty() {
            self.run(start);
        }
        for &header in &self.peers {
            let said = ["HEARD 00000001 100 1 0", "HELLO", "HELLO-UDP"];
            let entries = said.map(|text| entry(text, id)).to_vec();
            self.node.handle_frame(met, &Frame { header, entries });
        }
        if !self.peers.is_empty() {
            self.run(met);
        }
    }

    /// The end of a turn.
    fn run(&mut self, now: Instant) -> Vec<Action> {
        self.node.handle_timeout(now);
        let mut actions = Vec::new();
        while let Some(output) = self.node.poll_output() {
            actions.extend(match output {
                Output::Decide(ticket, verdict) => Some(Action::Decide(ticket, verdict)),
                Output::Destroy(flow) => Some(Action::Destroy(flow)),
                Output::Block(flow) => Some(Action::Block(flow)),
                Output::Inquire(flow) => Some(Action::Inquire(flow)),
                // With the same buckets it is about the ports that are not divided by them.
                Output::Share(KernelShare { own, decide_syns: false, .. }) => {
                    let changed = self.buckets.replace(own) != Some(own);
                    changed.then(|| Action::Buckets(own.len()))
                }
                Output::Share(share) => panic!("{}: no load was said: {share:?}", self.name),
                Output::Notice(_) => None,
            });
        }
        while let Some(frame) = self.node.poll_frame(now) {
            actions.push(Action::Send(frame.clone()));
        }
        actions
    }

    fn attempt(&self, name: &str) -> &'a Attempt {
        self.attempts.get(name).unwrap_or_else(|| panic!("no attempt is called {name}"))
    }

    fn happen(&mut self, now: Instant, event: &str) {
        if let Some(frame) = event.strip_prefix("frame ") {
            return match self.frame(frame) {
                (MAJOR, frame) => self.node.handle_frame(now, &frame),
                (major, frame) => self.node.handle_stranger(now, major, &frame.header),
            };
        }
        match event.split(' ').collect::<Vec<_>>()[..] {
            ["syn", ticket, "of", name, ref tracked @ ..] => {
                let (&Attempt { flow, isn, .. }, ticket) = (self.attempt(name), held(ticket));
                let incumbent = *tracked == ["tracked"];
                assert!(incumbent || tracked.is_empty(), "{event}");
                self.node.handle_syn(now, Syn { ticket, flow, isn, incumbent });
            }
            ["datagram", ticket, "of", name] => {
                self.node.handle_datagram(now, held(ticket), self.attempt(name).flow);
            }
            ["syn-ack", "of", name, "isn", isn] => {
                let &Attempt { flow, isn: client, .. } = self.attempt(name);
                self.node.handle_syn_ack(now, flow, client, number(isn) as u32);
            }
            ["refusal", ticket, "of", name] => {
                let &Attempt { flow, isn, .. } = self.attempt(name);
                self.node.handle_refusal(now, flow, isn, held(ticket));
            }
            ["ack", acknowledged, "of", name, "as", ticket] => {
                let (flow, number) = (self.attempt(name).flow, number(acknowledged) as u32);
                self.node.handle_ack(now, flow, number, Some(held(ticket)));
            }
            ["ended", name] => self.node.handle_flow_ended(now, self.attempt(name).flow),
            ["listener", service, ref on @ .., state] => {
                let vip = match *on {
                    [] => self.vip,
                    ["on", vip] => vip.parse().expect("an address"),
                    _ => panic!("not an event: {event}"),
                };
                let listener = match state {
                    "ready" => Listener::Ready,
                    "busy" => Listener::Busy,
                    "absent" => Listener::Absent,
                    _ => panic!("no listener is {state}"),
                };
                self.node.handle_listener(now, self::service(vip, service), listener);
            }
            _ => panic!("not an event: {event}"),
        }
    }

    fn action(&self, action: &str) -> Action {
        if let Some(frame) = action.strip_prefix("frame ") {
            return Action::Send(self.frame(frame).1);
        }
        let [kind, what] = words(action);
        match kind {
            "accept" => Action::Decide(held(what), Verdict::Accept),
            "drop" => Action::Decide(held(what), Verdict::Drop),
            "destroy" => Action::Destroy(self.attempt(what).flow),
            "block" => Action::Block(self.attempt(what).flow),
            "inquire" => Action::Inquire(self.attempt(what).flow),
            "buckets" => Action::Buckets(number(what) as usize),
            _ => panic!("not an action: {action}"),
        }
    }

    /// `NODE INCARNATION #SEQUENCE [FLAGS]: ENTRIES`, with its major version.
    fn frame(&self, text: &str) -> (u8, Frame) {
        let (head, entries) = text.split_once(':').expect("a header and entries");
        let mut head = head.splitn(4, ' ');
        let mut next = || head.next().unwrap_or_default();
        let header = Header {
            node: node(next()),
            incarnation: incarnation(next()),
            sequence: number(next().trim_start_matches('#')),
            minor: MINOR,
            flags: flags(next()),
        };
        let is_set = |flag| text.split([' ', ':']).any(|word| word == flag);
        let minor = if is_set("minor-0") { 0 } else { MINOR };
        let major = if is_set("major-2") { 2 } else { MAJOR };
        let entries = entries.trim().split(", ").filter(|text| !text.is_empty());
        let entries = entries.map(|text| entry(text, |name| self.attempt(name).id)).collect();
        (major, Frame { header: Header { minor, ..header }, entries })
    }
}

fn words<const N: usize>(text: &str) -> [&str; N] {
    let words: Vec<&str> = text.split(' ').collect();
    words.try_into().unwrap_or_else(|_| panic!("{N} words: {text}"))
}

fn service(vip: IpAddr, text: &str) -> ServicePort {
    let (protocol, port) = text.split_once('/').expect("protocol/port");
    let address = (vip, number(port) as u16);
    match protocol {
        "tcp" => ServicePort::tcp(address),
        "udp" => ServicePort::udp(address),
        _ => panic!("no protocol is called {protocol}"),
    }
}

/// A member of the roster, of the first virtual IP or `NODE+HASH` of a further one, too.
fn member(text: &str) -> Member {
    let (node, vips) = match text.split_once('+') {
        Some((node, hash)) => (node, vec![vip_hash(hash)]),
        None => (text, vec![]),
    };
    Member { node: self::node(node), unheard: Duration::ZERO, vips }
}

fn held(ticket: &str) -> Ticket {
    Ticket(number(ticket))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("a number: {text}"))
}
