//! The load: many short connections to the VIP from blocking threads.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::netns::{Namespace, check};
use super::topology::{self, Family, SERVICE_PORT};

/// Longest wait for a SYN-ACK: the first SYN and its retransmissions after 1, 3 and 7 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest life of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a transfer read at a time.
const FETCH_BYTES: usize = 256 * 1024;
/// Stack of a client thread, which holds little more than a request and an answer.
const STACK_BYTES: usize = 128 * 1024;

/// One attempt to get an answer from the VIP.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began, since the start of the load.
    pub started: Duration,
    /// When it ended, since the start of the load.
    pub ended: Duration,
    /// How long `connect` took, if it succeeded.
    pub connect: Option<Duration>,
    /// Index of the host that answered.
    pub outcome: Result<usize, Failure>,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The SYN was answered by a reset.
    ConnectRefused,
    /// No SYN-ACK within 8 s.
    ConnectTimeout,
    /// A reset on an established connection.
    Reset,
    /// The host closed the connection without an answer.
    ClosedEarly,
    /// No answer within 10 s.
    NoAnswer,
    /// Anything else; the report shows an example.
    Other,
}

impl Failure {
    /// All kinds, in the order of the report.
    pub const ALL: [Self; 6] = [
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::Reset,
        Self::ClosedEarly,
        Self::NoAnswer,
        Self::Other,
    ];

    fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::ConnectRefused,
            // The handshake was complete, but connect had not returned yet.
            ErrorKind::ConnectionReset => Self::Reset,
            // EINPROGRESS is what a blocking connect says when SO_SNDTIMEO strikes.
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::ConnectTimeout,
            _ if error.raw_os_error() == Some(libc::EINPROGRESS) => Self::ConnectTimeout,
            _ => Self::Other,
        }
    }

    fn of_exchange(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::NoAnswer,
            _ => Self::Other,
        }
    }
}

/// What load to put on the cluster.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Number of connections.
    pub connections: u64,
    /// How many are attempted at a time.
    pub concurrency: usize,
    /// When each is to begin, from the start of the load on; those beyond the list at once.
    pub starts: Vec<Duration>,
    /// The addresses to connect from, taken in turn by the threads.
    pub sources: Vec<IpAddr>,
    /// Connections (from 0) whose start is to be reported, with a number for each.
    pub milestones: Vec<(u64, usize)>,
}

/// What the load reports while it runs.
#[derive(Clone, Copy, Debug)]
pub enum LoadEvent {
    /// The milestone of this number was passed.
    Milestone(usize),
    /// The last connection has ended.
    Done,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plan: LoadPlan,
    epoch: Instant,
    next: AtomicU64,
    stopped: AtomicBool,
    /// One list per thread, so that the locks are never contended.
    attempts: Vec<Mutex<Vec<Attempt>>>,
    threads_left: AtomicU64,
    strange: OnceLock<String>,
}

impl Load {
    /// Starts the threads in the client's namespace.
    pub fn start(
        plan: LoadPlan,
        client: &Namespace,
        report: impl Fn(LoadEvent) + Clone + Send + 'static,
    ) -> Result<Self> {
        let per_thread = plan.connections as usize / plan.concurrency * 5 / 4 + 16;
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            attempts: (0..plan.concurrency)
                .map(|_| Mutex::new(Vec::with_capacity(per_thread)))
                .collect(),
            threads_left: AtomicU64::new(plan.concurrency as u64),
            strange: OnceLock::new(),
            plan,
        });
        for index in 0..shared.plan.concurrency {
            let (shared, client, report) = (Arc::clone(&shared), client.clone(), report.clone());
            thread::Builder::new()
                .name(format!("client {index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || shared.generate(index, &client, &report))
                .context("start a client thread; try a smaller --concurrency")?;
        }
        Ok(Self { shared })
    }

    /// When the load began.
    pub fn epoch(&self) -> Instant {
        self.shared.epoch
    }

    /// How many connections have been started.
    pub fn started(&self) -> u64 {
        self.shared.next.load(Ordering::Relaxed).min(self.shared.plan.connections)
    }

    /// Starts no more connections; those under way go on.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// The attempts that have ended, in order of their start.
    pub fn attempts(&self) -> Vec<Attempt> {
        let mut all = Vec::with_capacity(self.shared.plan.connections as usize);
        for list in &self.shared.attempts {
            all.extend_from_slice(&list.lock().expect("a client thread does not panic"));
        }
        all.sort_by_key(|attempt| attempt.started);
        all
    }

    /// The first error that [`Failure::Other`] stands for.
    pub fn strange_failure(&self) -> Option<&str> {
        self.shared.strange.get().map(String::as_str)
    }
}

impl Shared {
    fn generate(&self, index: usize, client: &Namespace, report: &impl Fn(LoadEvent)) {
        client.enter().expect("root may enter a namespace it made");
        let source = self.plan.sources[index % self.plan.sources.len()];
        while !self.stopped.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.plan.connections {
                break;
            }
            for &(connection, milestone) in &self.plan.milestones {
                if connection == number {
                    report(LoadEvent::Milestone(milestone));
                }
            }
            if let Some(&start) = self.plan.starts.get(number as usize) {
                thread::sleep(start.saturating_sub(self.epoch.elapsed()));
            }
            let attempt = self.attempt(source);
            self.attempts[index].lock().expect("only this thread writes").push(attempt);
        }
        if self.threads_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            report(LoadEvent::Done);
        }
    }

    fn attempt(&self, source: IpAddr) -> Attempt {
        let begin = Instant::now();
        let mut connect = None;
        let outcome = connect_to_vip(source, CONNECT_TIMEOUT)
            .map_err(|error| (Failure::of_connect(&error), error))
            .and_then(|(socket, took)| {
                connect = Some(took);
                hello(socket, begin + ATTEMPT_TIMEOUT)
            })
            .map_err(|(failure, error)| {
                if failure == Failure::Other {
                    self.strange.get_or_init(|| error.to_string());
                }
                failure
            });
        Attempt {
            started: begin.duration_since(self.epoch),
            ended: self.epoch.elapsed(),
            connect,
            outcome,
        }
    }
}

/// Connects once from the client's namespace, so that the client knows the VIP's
/// MAC address. A reset will do: the load is there to count those.
pub fn first_connection(client: &Namespace, source: IpAddr) -> Result<()> {
    client.within(|| {
        let begin = Instant::now();
        let answer = connect_to_vip(source, CONNECT_TIMEOUT)
            .map_err(|error| (Failure::of_connect(&error), error))
            .and_then(|(socket, _)| hello(socket, begin + ATTEMPT_TIMEOUT));
        let error = match answer {
            Ok(_) | Err((Failure::Reset, _)) => return Ok(()),
            Err((Failure::ConnectTimeout, _)) => anyhow!("no SYN-ACK within {CONNECT_TIMEOUT:?}"),
            Err((_, error)) => error.into(),
        };
        Err(error.context(format!(
            "get a first answer from {}, port {}; see the hosts' logs with --verbose",
            Family::of(source).vip(),
            SERVICE_PORT
        )))
    })
}

/// Fetches `bytes` over one connection; returns how long that took, from the
/// request to the last byte.
pub fn fetch(client: &Namespace, source: IpAddr, bytes: u64) -> Result<Duration> {
    client.within(|| {
        let (mut socket, _) =
            connect_to_vip(source, CONNECT_TIMEOUT).context("connect for a transfer")?;
        socket.set_read_timeout(Some(ATTEMPT_TIMEOUT))?;
        let begin = Instant::now();
        socket.write_all(format!("send {bytes}\n").as_bytes())?;
        let (mut buffer, mut left) = (vec![0; FETCH_BYTES], bytes);
        while left > 0 {
            let read = socket.read(&mut buffer).context("read a transfer")? as u64;
            anyhow::ensure!(read > 0, "a transfer ended {left} bytes early");
            left = left.saturating_sub(read);
        }
        Ok(begin.elapsed())
    })
}

/// Connects `count` times at once, and tells how many got an answer. `patience` is for the SYN-ACK,
/// and again for the answer.
pub fn knock(
    client: &Namespace,
    source: IpAddr,
    count: usize,
    patience: Duration,
) -> Result<usize> {
    let attempt = || {
        client.enter().expect("root may enter a namespace it made");
        let (socket, _) = connect_to_vip(source, patience).ok()?;
        hello(socket, Instant::now() + patience).ok()
    };
    thread::scope(|scope| {
        let start = |_| thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, attempt);
        let threads = (0..count).map(start).collect::<io::Result<Vec<_>>>();
        let threads = threads.context("start a client thread; try fewer --connections")?;
        let answered = threads.into_iter().map(|thread| {
            let host = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            usize::from(host.is_some())
        });
        Ok(answered.sum())
    })
}

/// The socket, and how long `connect` alone took.
fn connect_to_vip(source: IpAddr, patience: Duration) -> io::Result<(Socket, Duration)> {
    let service = SocketAddr::new(Family::of(source).vip(), SERVICE_PORT);
    let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
    bind_late(&socket, source)?;
    socket.set_write_timeout(Some(patience))?;
    let begin = Instant::now();
    // Calls with a timeout end when the process was stopped and goes on, or is frozen with its
    // machine (signal(7)); the next one waits for the same handshake (`__inet_stream_connect`).
    while let Err(error) = socket.connect(&service.into()) {
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok((socket, begin.elapsed()))
}

/// Lets `socket` connect from `source`, from a port chosen then.
pub fn bind_late(socket: &Socket, source: IpAddr) -> io::Result<()> {
    choose_port_late(socket)?;
    socket.bind(&SocketAddr::from((source, 0)).into())
}

/// Leaves the choice of the local port to `connect`: chosen by `bind`, it could not
/// be one in TIME_WAIT, and a long run would use them all up.
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length describe the local `on`.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    })
}

/// No service of a lab has a longer name.
const ANSWER_MAX: usize = 16;

/// Asks who is there; the client closes first.
fn hello(mut socket: Socket, deadline: Instant) -> Result<usize, (Failure, io::Error)> {
    let mut answer = Vec::new();
    let mut exchange = || -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        socket.write_all(b"hello\n")?;
        let line = BufReader::with_capacity(ANSWER_MAX, &socket);
        match line.take(ANSWER_MAX as u64).read_until(b'\n', &mut answer)? {
            ANSWER_MAX => Ok(()),
            _ if answer.ends_with(b"\n") => Ok(()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    };
    exchange().map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => (Failure::ClosedEarly, error),
        _ => (Failure::of_exchange(&error), error),
    })?;
    host_of_answer(&answer).ok_or_else(|| {
        let text = String::from_utf8_lossy(&answer).into_owned();
        (Failure::Other, io::Error::other(format!("unexpected answer {text:?}")))
    })
}

fn host_of_answer(answer: &[u8]) -> Option<usize> {
    let number = std::str::from_utf8(answer).ok()?.strip_prefix('h')?.strip_suffix('\n')?;
    number.parse::<usize>().ok()?.checked_sub(1).filter(|&host| host < topology::HOSTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_a_host() {
        assert_eq!(host_of_answer(b"h1\n"), Some(0));
        assert_eq!(host_of_answer(b"h12\n"), Some(11));
        for answer in [&b""[..], b"\n", b"h0\n", b"h1", b"h99\n", b"x1\n", b"h\xff\n"] {
            assert_eq!(host_of_answer(answer), None, "{answer:?}");
        }
    }

    #[test]
    fn failures_are_told_apart() {
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let in_progress = io::Error::from_raw_os_error(libc::EINPROGRESS);
        let reset = io::Error::from_raw_os_error(libc::ECONNRESET);
        let no_port = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        assert_eq!(Failure::of_connect(&refused), Failure::ConnectRefused);
        assert_eq!(Failure::of_connect(&in_progress), Failure::ConnectTimeout);
        assert_eq!(Failure::of_connect(&reset), Failure::Reset);
        assert_eq!(Failure::of_connect(&no_port), Failure::Other);
        let would_block = io::Error::from_raw_os_error(libc::EAGAIN);
        assert_eq!(Failure::of_exchange(&reset), Failure::Reset);
        assert_eq!(Failure::of_exchange(&would_block), Failure::NoAnswer);
    }
}
