//! Failures that a script can tell apart by the exit code.

use std::fmt;

/// Exit codes after sysexits.h, as documented in README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything without a code of its own.
    Other = 1,
    /// Wrong usage, as of the parser of the command line.
    Usage = 2,
    /// What was looked at is not in order: `verify` and `doctor`.
    NotInOrder = 3,
    /// `doctor` heard no other host.
    Alone = 4,
    /// EX_UNAVAILABLE: interface, kernel feature or program missing.
    Unavailable = 69,
    /// EX_TEMPFAIL: the virtual IP is in use.
    InUse = 75,
    /// EX_NOPERM: capabilities missing.
    Privilege = 77,
    /// EX_CONFIG: the arguments do not fit this host.
    Config = 78,
}

/// A failure with its exit code and a message that names the way out.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn error(exit: Exit, message: &str) -> anyhow::Error {
        anyhow::Error::new(Self { exit, message: message.to_owned() })
    }

    /// Something this needs is not there.
    pub fn unavailable(message: &str) -> anyhow::Error {
        Self::error(Exit::Unavailable, message)
    }

    /// Somebody else has the virtual IP.
    pub fn in_use(message: &str) -> anyhow::Error {
        Self::error(Exit::InUse, message)
    }

    /// This process may not do it.
    pub fn privilege(message: &str) -> anyhow::Error {
        let message = format!(
            "{message}: clusterd needs CAP_NET_ADMIN and CAP_NET_RAW; run it as root or grant them"
        );
        Self::error(Exit::Privilege, &message)
    }

    /// The arguments contradict each other.
    pub fn usage(message: &str) -> anyhow::Error {
        Self::error(Exit::Usage, message)
    }

    /// The arguments do not fit this host.
    pub fn config(message: &str) -> anyhow::Error {
        Self::error(Exit::Config, message)
    }

    /// The exit code for an error.
    pub fn exit_code(error: &anyhow::Error) -> u8 {
        error.downcast_ref::<Failure>().map_or(Exit::Other, |failure| failure.exit) as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
