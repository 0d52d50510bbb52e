//! A discrete-event simulator of claim races.
//!
//! It drives the production core and wire code of clusterd through modelled media, hosts,
//! kernels and clients, many thousand connections a second. A run depends on nothing but its
//! scenario and its seed.
//!
//! [`world::World`] puts everything together; each other module is one model or one use of it.

pub mod arrivals;
pub mod chance;
pub mod checker;
pub mod client;
pub mod counts;
pub mod delay;
pub mod diagram;
pub mod engine;
pub mod fault;
pub mod file;
pub mod host;
pub mod in_order;
pub mod judge;
pub mod kernel;
pub mod measured;
pub mod network;
pub mod output;
pub mod packet;
pub mod pcap;
pub mod record;
pub mod replication;
pub mod report;
pub mod result;
pub mod rule;
pub mod scenario;
pub mod service;
pub mod setting;
pub mod shell;
pub mod shrink;
pub mod statistics;
pub mod summary;
pub mod swarm;
pub mod sweep;
pub mod table;
pub mod trace;
pub mod validation;
pub mod world;
