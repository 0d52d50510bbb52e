//! What is not in order, who is to blame, and the way out.

use std::fmt;

use serde::Serialize;

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Culprit {
    /// The interface cannot carry the virtual IP as it is: missing address, down, port of a bridge.
    Interface,
    /// Nobody at the other end of the cable.
    Carrier,
    /// The switch forwards group MACs only where somebody has joined that MAC.
    MacSnooping,
    /// The switch forwards by IP group and has a querier.
    Snooping,
    /// The switch does not flood unicast MACs that it has not learnt.
    UnknownUnicast,
    /// Nobody asks for members of groups, so switches that snoop forget them.
    NoQuerier,
    /// The port of the switch does not forward: spanning tree, or LACP.
    PortSilent,
    /// The switch learns the MAC at one port.
    Learning,
    /// Something between the hosts drops frames to the cluster's MACs in each mode.
    Segment,
    /// One host hears nobody.
    DeafHost,
    /// Nobody hears one host.
    MuteHost,
    /// Frames get lost now and then.
    Loss,
    /// The router refuses the MAC in an answer to its question.
    RouterRefuses,
    /// The router believes the frame that an answer comes in, not what the answer says.
    RouterLearnsSource,
    /// The router has an entry for the virtual IP that does not change, or does not answer it.
    RouterEntry,
    /// The router's frames to the virtual IP do not arrive.
    RouterFrames,
    /// The router does not answer this host, at all or no pings.
    RouterSilent,
    /// Another host has the virtual IP.
    DuplicateVip,
    /// Hosts answer for the virtual IP in different modes.
    MixedModes,
    /// This host has the virtual IP as an address that no daemon gave to it.
    VipConfigured,
    /// A killed daemon left its address on this host.
    LeftBehind,
    /// This host's neighbour table has another MAC for the virtual IP.
    NeighbourEntry,
    /// A host that is about to start cannot use the mode.
    HostCannot,
    /// This host has no other address to speak from to hosts beyond the link.
    SpeaksFromVip,
    /// This kernel has no rules at ingress.
    IngressMissing,
    /// Strict reverse path filtering.
    RpFilter,
    /// The sysctl `drop_unicast_in_l2_multicast`.
    DropUnicastInMulticast,
    /// Rules of another program.
    Firewall,
    /// Connection tracking is not there.
    ConntrackMissing,
    /// Rules of another program keep packets from connection tracking.
    ConntrackOff,
    /// The table of connection tracking is full.
    ConntrackFull,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// It must be changed, or the cluster does not work.
    Problem,
    /// Good to know: it does no harm, or it cannot be told.
    Note,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Who is to blame.
    pub culprit: Culprit,
    /// How bad it is.
    pub weight: Weight,
    /// What is so, in a line.
    pub text: String,
    /// What to type, where that can be said.
    pub command: Option<String>,
}

impl Finding {
    /// A problem.
    pub fn problem(culprit: Culprit, text: impl Into<String>) -> Self {
        Self { culprit, weight: Weight::Problem, text: text.into(), command: None }
    }

    /// A note.
    pub fn note(culprit: Culprit, text: impl Into<String>) -> Self {
        Self { weight: Weight::Note, ..Self::problem(culprit, text) }
    }

    /// With what to type.
    pub fn try_this(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.weight {
            Weight::Problem => '!',
            Weight::Note => '-',
        };
        write!(f, "{mark} {}", self.text)?;
        match &self.command {
            Some(command) => write!(f, ": {command}"),
            None => Ok(()),
        }
    }
}
