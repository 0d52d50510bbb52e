//! Things that go wrong at a given time.
//!
//! ```text
//! 2s kill h1            the host loses power
//! 5s start h1           it starts again
//! 2s stop h1 500ms      its daemon does not run for so long
//! 2s mute h1            no claim frame of it reaches anybody
//! 2s deaf h1            no claim frame reaches it
//! 2s part h1 h2         claim frames do not pass between these and the others
//! 2s shut h1            its service ends
//! 4s serve h1           it runs again
//! 9s heal               whatever was cut reaches everybody again
//! 9s calm               no frame is lost, doubled or late by chance any more, and no daemon paused
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::delay::show_time;

/// Something that happens to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When, from the start of the warm-up.
    pub at: Duration,
    /// What.
    pub kind: FaultKind,
}

/// What happens. Hosts are counted from 0 here and from 1 in text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the module describes each")]
pub enum FaultKind {
    Kill(usize),
    Start(usize),
    Stop(usize, Duration),
    Mute(usize),
    Deaf(usize),
    Part(Vec<usize>),
    Shut(usize),
    Serve(usize),
    Heal,
    Calm,
}

impl Fault {
    /// The hosts that it names.
    pub fn hosts(&self) -> impl Iterator<Item = usize> {
        let hosts = match &self.kind {
            FaultKind::Kill(host)
            | FaultKind::Start(host)
            | FaultKind::Stop(host, _)
            | FaultKind::Mute(host)
            | FaultKind::Deaf(host)
            | FaultKind::Shut(host)
            | FaultKind::Serve(host) => std::slice::from_ref(host),
            FaultKind::Part(hosts) => hosts,
            FaultKind::Heal | FaultKind::Calm => &[],
        };
        hosts.iter().copied()
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = |word: &str| {
            humantime::parse_duration(word).map_err(|error| format!("`{word}` is no time: {error}"))
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let [at, ref what @ ..] = words[..] else { return Err("an empty fault".to_owned()) };
        let kind = match *what {
            ["kill", it] => FaultKind::Kill(host(it)?),
            ["start", it] => FaultKind::Start(host(it)?),
            ["stop", it, pause] => FaultKind::Stop(host(it)?, time(pause)?),
            ["mute", it] => FaultKind::Mute(host(it)?),
            ["deaf", it] => FaultKind::Deaf(host(it)?),
            ["part", ref hosts @ ..] if !hosts.is_empty() => {
                FaultKind::Part(hosts.iter().map(|it| host(it)).collect::<Result<_, _>>()?)
            }
            ["shut", it] => FaultKind::Shut(host(it)?),
            ["serve", it] => FaultKind::Serve(host(it)?),
            ["heal"] => FaultKind::Heal,
            ["calm"] => FaultKind::Calm,
            _ => {
                return Err(format!(
                    "`{text}` is no fault; one is `2s kill h1`, `5s start h1`, `2s stop h1 500ms`, \
                     `2s mute h1`, `2s deaf h1`, `2s part h1 h2`, `2s shut h1`, `4s serve h1`, \
                     `9s heal` or `9s calm`"
                ));
            }
        };
        Ok(Self { at: time(at)?, kind })
    }
}

/// Reads `h1` as 0.
fn host(text: &str) -> Result<usize, String> {
    let number = text.strip_prefix('h').and_then(|number| number.parse::<usize>().ok());
    number
        .and_then(|number| number.checked_sub(1))
        .ok_or_else(|| format!("`{text}` is no host such as h1"))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", show_time(self.at), self.kind)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultKind::Kill(host) => write!(f, "kill h{}", host + 1),
            FaultKind::Start(host) => write!(f, "start h{}", host + 1),
            FaultKind::Stop(host, time) => write!(f, "stop h{} {}", host + 1, show_time(*time)),
            FaultKind::Mute(host) => write!(f, "mute h{}", host + 1),
            FaultKind::Deaf(host) => write!(f, "deaf h{}", host + 1),
            FaultKind::Part(hosts) => {
                f.write_str("part")?;
                hosts.iter().try_for_each(|host| write!(f, " h{}", host + 1))
            }
            FaultKind::Shut(host) => write!(f, "shut h{}", host + 1),
            FaultKind::Serve(host) => write!(f, "serve h{}", host + 1),
            FaultKind::Heal => f.write_str("heal"),
            FaultKind::Calm => f.write_str("calm"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_shown_as_it_is_read() {
        for text in [
            "2s kill h1",
            "5s start h12",
            "2s500ms stop h1 500ms",
            "0s mute h3",
            "2s part h1 h2",
            "9s heal",
            "9s calm",
        ] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        for (text, word) in [
            ("soon kill h1", "`soon` is no time"),
            ("2s kill", "is no fault"),
            ("2s kill h0", "`h0` is no host"),
            ("", "empty"),
        ] {
            let error = text.parse::<Fault>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
