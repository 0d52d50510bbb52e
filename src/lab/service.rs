//! The TCP service of a lab host, small enough not to be what is measured.
//!
//! The client speaks first, in lines, on a connection that stays open until the
//! client closes it:
//!
//! | request | answer |
//! |---|---|
//! | `hello` | the host's name, `h1` |
//! | `send N` | N bytes of a repeating pattern |
//! | `recv N`, then N bytes | `ok` once all have arrived |

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// Connections the kernel completes before the service accepts them.
const BACKLOG: i32 = 4096;
/// Longest request line.
const LINE_MAX: u64 = 64;
/// Length of the pattern that `send` repeats; a prime, so that a shifted copy shows.
const PATTERN_PERIOD: usize = 251;
/// Pause after a failed accept, which is nearly always a lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// Options of the service.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Answer to `hello`.
    #[arg(long)]
    name: String,
    /// Port to listen on.
    #[arg(long, default_value_t = super::topology::SERVICE_PORT)]
    port: u16,
    /// Listen on IPv6.
    #[arg(long)]
    ipv6: bool,
    /// Close every connection at once instead
    #[arg(long)]
    hang_up: bool,
}

/// Serves until killed; says `ready` on stderr once it listens.
pub fn serve(args: &ServeArgs) -> Result<()> {
    super::process::raise_descriptor_limit();
    let listener = listen(args).with_context(|| format!("listen on port {}", args.port))?;
    eprintln!("ready: {} listens on port {}", args.name, args.port);
    if args.hang_up {
        hang_up(&listener)
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime of the service")?;
    LocalSet::new().block_on(&runtime, async {
        listener.set_nonblocking(true).context("make the listener non-blocking")?;
        let listener = TcpListener::from_std(listener).context("watch the listener")?;
        let greeting: Rc<str> = format!("{}\n", args.name).into();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let greeting = greeting.clone();
                    // A connection that breaks concerns its client, who counts it.
                    tokio::task::spawn_local(async move { converse(stream, &greeting).await.ok() });
                }
                Err(error) => {
                    eprintln!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    })
}

fn listen(args: &ServeArgs) -> io::Result<std::net::TcpListener> {
    let address: SocketAddr = match args.ipv6 {
        false => (Ipv4Addr::UNSPECIFIED, args.port).into(),
        true => (Ipv6Addr::UNSPECIFIED, args.port).into(),
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn hang_up(listener: &std::net::TcpListener) -> ! {
    loop {
        match listener.accept() {
            Ok((stream, _)) => drop(stream),
            Err(error) => {
                eprintln!("cannot accept a connection: {error}");
                std::thread::sleep(ACCEPT_RETRY);
            }
        }
    }
}

async fn converse(stream: TcpStream, greeting: &str) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(512, stream);
    let mut line = String::with_capacity(LINE_MAX as usize);
    loop {
        line.clear();
        if (&mut stream).take(LINE_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let request = line.trim_end();
        match request.split_once(' ').unwrap_or((request, "")) {
            ("hello", "") => stream.write_all(greeting.as_bytes()).await?,
            ("send", count) => send(stream.get_mut(), number(count)?).await?,
            ("recv", count) => {
                let count = number(count)?;
                let got =
                    tokio::io::copy(&mut (&mut stream).take(count), &mut tokio::io::sink()).await?;
                if got < count {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                stream.write_all(b"ok\n").await?;
            }
            _ => stream.write_all(b"error: expected hello, send N or recv N\n").await?,
        }
    }
}

/// Sends `count` bytes; byte k of them is k modulo [`PATTERN_PERIOD`].
async fn send(stream: &mut TcpStream, mut count: u64) -> io::Result<()> {
    let pattern: Vec<u8> = (0..PATTERN_PERIOD as u8).cycle().take(PATTERN_PERIOD * 256).collect();
    while count > 0 {
        let length = count.min(pattern.len() as u64);
        stream.write_all(&pattern[..length as usize]).await?;
        count -= length;
    }
    Ok(())
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::ErrorKind::InvalidInput.into())
}
