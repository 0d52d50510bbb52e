//! Shared by the integration tests, see [`cluster`] and [`driver`], and by the benchmark of the core, see [`traffic`].

// Each test crate uses its own part of it.
#![allow(dead_code)]

pub mod cluster;
pub mod driver;
pub mod traffic;
