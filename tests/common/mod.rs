//! Shared by the integration tests; see [`cluster`] and [`traffic`].

// Each test crate uses its own part of it.
#![allow(dead_code)]

pub mod cluster;
pub mod traffic;
