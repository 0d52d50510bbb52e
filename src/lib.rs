//! The core of clusterd: what the hosts say to each other and how each decides.
//!
//! Two modules matter. [`wire`] turns claim frames into bytes and back;
//! [`protocol`] is the state machine that says which host answers which
//! connection attempt. [`recording`] keeps what went into it and came out of it. [`protocol::Node`] is the type to know: it takes
//! `(now, event)` and returns [`protocol::Output`]s.
//!
//! What you will not find here: sockets, clocks, threads, global state, or a
//! decision that depends on the iteration order of a hash map. The daemon, the
//! simulator and the tests drive this same code. The specification is
//! `proto-spec/claim-protocol.md`; "spec" in a comment means that document.

pub mod bucket;
pub mod flow;
pub mod protocol;
pub mod recording;
pub mod wire;
