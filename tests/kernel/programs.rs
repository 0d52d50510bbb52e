//! Programs that know nothing of clusters: resolvers, a name server, syslog, TFTP, ping.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::datagrams::Tap;
use crate::rig::{FAMILIES, Lab, VIP, note, scratch, skip, wait_until};

const HOSTS: usize = 3;

/// A program in the lab, ended with this value.
struct Program(Child);

impl Program {
    /// Starts a program on a host and waits until it listens on a UDP port.
    fn serve(lab: &Lab, host: usize, port: u16, words: &[&str], output: Stdio) -> Self {
        let role = format!("h{host}");
        let mut command = lab.command(&role, words);
        command.stdout(output).stderr(Stdio::null());
        let mut program = Self(command.spawn().expect("start a program"));
        wait_until("the program listens", || {
            let ended = program.0.try_wait().expect("wait for a child");
            assert!(ended.is_none(), "{words:?} ended: {ended:?}");
            !lab.shell(&role, &format!("ss -Huln sport = :{port}")).trim().is_empty()
        });
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended with its lab.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Are these programs here?
fn has(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        !found.is_ok_and(|output| output.status.success())
    });
    missing.is_none_or(|program| skip::<()>(&format!("needs the program {program}")).is_some())
}

/// A directory that goes with this value.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = scratch(name);
        fs::create_dir_all(&path).expect("make a directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("remove a directory");
    }
}

/// dnsmasq on every host; it answers `who.test` with the host's name.
fn dnsmasq(lab: &Lab, options: &[&str]) -> Vec<Program> {
    let long = "x".repeat(200);
    let serve = |host| {
        let mut words = vec![
            "dnsmasq".to_owned(),
            "--keep-in-foreground".into(),
            "--conf-file=/dev/null".into(),
            "--no-resolv".into(),
            "--no-hosts".into(),
            "--user=root".into(),
            "--pid-file=".into(),
            "--bind-interfaces".into(),
            format!("--listen-address={VIP}"),
            format!("--txt-record=who.test,h{host}"),
            "--host-record=www.test,192.0.2.1,2001:db8::1".into(),
            format!("--txt-record=long.test,{}", [long.as_str(); 10].join(",")),
        ];
        words.extend(options.iter().map(|&option| option.to_owned()));
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        Program::serve(lab, host, 53, &words, Stdio::null())
    };
    (1..=lab.nodes()).map(serve).collect()
}

#[test]
fn a_name_server_answers_every_query_once() {
    const QUERIES: usize = 400;
    if !has(&["dnsmasq", "dig"]) {
        return;
    }
    let Some(lab) = Lab::up(HOSTS, "rst") else { return };
    let _servers = dnsmasq(&lab, &[]);
    let tap = Tap::open(&lab);
    // One process, but one socket for each query.
    let query = format!("dig @{VIP} +short +tries=1 $(yes 'who.test TXT' | head -n {QUERIES})");
    let answers = lab.shell("client", &query);
    let mut shares = BTreeMap::<_, usize>::new();
    answers.lines().for_each(|host| *shares.entry(host).or_default() += 1);
    note(&format!("{QUERIES} queries: {shares:?}"));
    assert_eq!(shares.values().sum::<usize>(), QUERIES);
    assert_eq!(shares.len(), HOSTS);
    let on_the_wire: usize = tap.answers().values().map(Vec::len).sum();
    assert_eq!(on_the_wire, QUERIES);

    for kind in ["A", "AAAA"] {
        let answer = lab.shell("client", &format!("dig @{VIP} +short +tries=1 www.test {kind}"));
        assert!(["192.0.2.1\n", "2001:db8::1\n"].contains(&answer.as_str()), "{answer}");
    }
    // Too long for a datagram: asked again by TCP.
    let answer = lab.shell("client", &format!("dig @{VIP} +bufsize=512 +tries=1 long.test TXT"));
    assert!(answer.contains("(TCP)") && answer.contains(&"x".repeat(200)), "{answer}");
}

#[test]
fn one_receiver_of_syslog_gets_all_of_a_sender() {
    const MESSAGES: usize = 500;
    if !has(&["socat", "logger"]) {
        return;
    }
    let Some(lab) = Lab::up(HOSTS, "rst") else { return };
    let directory = Directory::new("syslog");
    let log = |host| directory.0.join(format!("h{host}"));
    // Room for all messages of a sender.
    let receive = format!("UDP4-RECV:514,bind={VIP},rcvbuf=1000000");
    let receiver = |host| {
        let file = fs::File::create(log(host)).expect("create a file");
        Program::serve(&lab, host, 514, &["socat", "-u", &receive, "-"], file.into())
    };
    let _receivers: Vec<_> = (1..=HOSTS).map(receiver).collect();
    let received = |host| {
        let text = fs::read_to_string(log(host)).expect("read a file");
        text.matches(" line ").count()
    };
    let all = || (1..=HOSTS).map(received).sum::<usize>();
    for sender in 0..5 {
        let words = ["logger", "-d", "-n", &VIP.to_string(), "-P", "514", "--rfc3164"];
        let mut command = lab.command("client", &words);
        let mut logger = command.stdin(Stdio::piped()).spawn().expect("start logger");
        let mut input = logger.stdin.take().expect("a pipe");
        // Until the first message is through, sixteen may wait: a burst could lose some.
        writeln!(input, "line 1 ").expect("write to logger");
        wait_until("the first message is there", || all() > sender * MESSAGES);
        for number in 2..=MESSAGES {
            writeln!(input, "line {number} ").expect("write to logger");
        }
        drop(input);
        assert!(logger.wait().expect("wait for logger").success());
        wait_until("all messages are there", || all() >= (sender + 1) * MESSAGES);
        for host in 1..=HOSTS {
            assert_eq!(received(host) % MESSAGES, 0, "h{host}");
        }
    }
    note(&format!("messages by host: {:?}", (1..=HOSTS).map(received).collect::<Vec<_>>()));
}

/// A TFTP server goes on with each client from a new port (RFC 1350).
#[test]
fn a_file_comes_from_another_port() {
    const BYTES: usize = 400_000;
    if !has(&["dnsmasq", "tftp"]) {
        return;
    }
    let Some(lab) = Lab::up(HOSTS, "rst") else { return };
    let directory = Directory::new("tftp");
    let content: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    fs::write(directory.0.join("file"), &content).expect("write a file");
    let root = format!("--tftp-root={}", directory.0.display());
    let _servers = dnsmasq(&lab, &["--enable-tftp", &root]);
    let copy = directory.0.join("copy");
    for transfer in 0..5 {
        let tap = Tap::open(&lab);
        let get = format!("cd {} && tftp -m binary {VIP} -c get file copy", directory.0.display());
        lab.shell("client", &get);
        assert_eq!(fs::read(&copy).expect("the file came"), content, "transfer {transfer}");
        fs::remove_file(&copy).expect("remove the copy");
        let hosts: Vec<_> = tap.answers().into_values().flatten().collect();
        assert!(hosts.len() >= BYTES / 512 && hosts.iter().all(|&host| host == hosts[0]));
    }
}

#[test]
fn ping_gets_each_answer_once() {
    if !has(&["ping"]) {
        return;
    }
    for family in FAMILIES {
        let Some(lab) = Lab::up_with(HOSTS, family) else { return };
        for size in ["56", "4000"] {
            for _ in 0..10 {
                // Fails unless all are answered.
                let line = format!("ping -c 5 -i 0.01 -W 5 -s {size} {}", lab.vip());
                let said = lab.shell("client", &line);
                assert!(said.contains("5 received") && !said.contains("DUP"), "{said}");
            }
        }
    }
}
