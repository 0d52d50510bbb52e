//! Stand-in until the daemon is here: lets the modules below compile.

#[allow(dead_code)]
mod io;

fn main() {}
