//! The daemon on real kernels: network namespaces, real TCP, the built binary.
//!
//! Needs root; without it, or without a kernel feature, each test says so and
//! passes, unless `CLUSTERD_REQUIRE_KERNEL` is set. Two labs stand at a time, and none
//! beside a test that needs the machine for itself (see [`rig`]); each test takes down what it
//! raised. No test measures time: a deadline only ends the wait for something that must happen.

mod answers;
mod capture;
mod load;
mod rig;
mod sender;
mod sockets;
mod tools;
#[path = "../common/tshark.rs"]
mod tshark;

mod arp;
mod auth;
mod auto;
mod buckets;
mod coexist;
mod datagrams;
mod dissector;
mod doctor;
mod doctor_host;
mod dumps;
mod errors;
mod fallback;
mod faults;
mod flood;
mod forwarded;
mod frames;
mod ipv6;
mod log;
mod mac;
mod membership;
mod ndp;
mod overload;
mod ports;
mod programs;
mod recordings;
mod resets;
mod services;
mod survival;
mod traffic;
mod upgrade;
mod verify;
mod vips;
