//! Claim frames: bytes to values and back; no state, no decisions.
//!
//! The layout is spec section 3, the golden vectors are `proto-spec/vectors`.
//! [`decode`] accepts any bytes at all without panicking: what is not a frame
//! of this version and cluster comes back as a [`DecodeError`] naming the rule
//! that failed. Nothing of a frame is acted on before its tag has been checked.

mod frame;
mod keyring;

pub use frame::{
    Contest, DecodeError, Entry, FRAME_MAX, Flags, Frame, FurtherPort, Header, IP_PROTOCOL, MAGIC,
    MAJOR, MINOR, PORTS_MAX, REPORTS_MAX, Report, TTL, VIPS_MAX, decode, decode_into, encode,
    encode_into,
};
pub use keyring::{KeyRing, PUBLIC_KEY_ID, Policy, SECRETS_MAX, Secret};
