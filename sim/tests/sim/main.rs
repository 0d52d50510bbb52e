//! The simulator as its users see it: the program and its files, and long runs of the library.
//! One binary: each further one costs a build some ten seconds.

mod ablations;
mod captures;
mod common;
mod explain;
mod report;
mod runs;
mod swarm;
mod sweeps;
mod validation;
