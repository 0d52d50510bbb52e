//! The kernel module: what it does, what it refuses, and that it goes without a trace.

pub mod connection;
mod daemon;
mod gate;
mod life;
mod packet_type;
mod parameters;
