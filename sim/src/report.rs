//! The report: experiments, what came of them, and one page that shows it.
//!
//! An experiment is made of curves; a curve is what `clusterd-sim sweep` or `run` is told, so the
//! command that the page prints and what was simulated for it are made from the same words.
//! No text of an experiment says what has come out: that is said by findings, which are computed
//! from the numbers of this very run.

mod chart;
mod csv_link;
mod experiment;
mod experiments;
mod lab;
mod outcome;
mod page;
mod plot;
mod texts;
mod ticks;

pub use experiment::{Curve, Effort, Experiment};
pub use experiments::experiments;
pub use outcome::{Outcome, carry_out};
pub use page::page;
