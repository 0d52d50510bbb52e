//! Distributions of delays, as a scenario writes them.
//!
//! ```text
//! 6us                                 always
//! uniform 5us 20us                    anything between
//! exp 10us                            exponential, its mean
//! lognormal 6us 0.7                   its median and sigma
//! pareto 1ms 1.5                      its minimum and shape
//! lognormal 6us 0.7 + 0.1% exp 300us  the first, and sometimes the second on top
//! measured wake.csv                   what was measured, see `measured`
//! ```

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rand_distr::{Distribution, Exp1, StandardNormal};

use crate::chance::Chance;
use crate::measured::Histogram;

/// A distribution of delays.
#[derive(Clone, Debug, PartialEq)]
pub struct Delay {
    terms: Vec<Term>,
}

/// One summand: drawn with this probability, else nothing.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    probability: f64,
    shape: Shape,
}

/// Times are in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Fixed(u64),
    Uniform(u64, u64),
    Exponential(f64),
    LogNormal { median: f64, sigma: f64 },
    Pareto { least: f64, shape: f64 },
    Measured { name: String, histogram: Arc<Histogram> },
}

/// What the name of a file comes after. A name with a `+` is not understood.
const MEASURED: &str = "measured ";

/// Longer than any run: heavy tails end here.
const LONGEST: f64 = 3.6e12;

impl Delay {
    /// No delay at all.
    pub const NONE: Delay = Delay { terms: Vec::new() };

    /// Always the same.
    pub fn fixed(time: Duration) -> Self {
        Self::of(Shape::Fixed(time.as_nanos() as u64))
    }

    fn of(shape: Shape) -> Self {
        Self { terms: vec![Term { probability: 1.0, shape }] }
    }

    /// Draws a delay in nanoseconds.
    pub fn draw(&self, chance: &mut Chance) -> u64 {
        let mut sum = 0;
        for term in &self.terms {
            if term.probability >= 1.0 || chance.happens(term.probability) {
                sum += term.shape.draw(chance);
            }
        }
        sum
    }

    /// The mean in nanoseconds; infinite for a Pareto shape of 1 or less.
    pub fn mean(&self) -> f64 {
        self.terms.iter().map(|term| term.probability * term.shape.mean()).sum()
    }
}

impl Shape {
    fn draw(&self, chance: &mut Chance) -> u64 {
        let nanoseconds = match *self {
            Shape::Fixed(time) => return time,
            Shape::Uniform(least, most) => return least + chance.below(most - least + 1),
            Shape::Measured { ref histogram, .. } => return histogram.draw(chance),
            Shape::Exponential(mean) => {
                let drawn: f64 = Exp1.sample(chance.generator());
                mean * drawn
            }
            Shape::LogNormal { median, sigma } => {
                let drawn: f64 = StandardNormal.sample(chance.generator());
                median * (sigma * drawn).exp()
            }
            // The inverse of its distribution function; 1 - unit() is never 0.
            Shape::Pareto { least, shape } => least * (1.0 - chance.unit()).powf(-1.0 / shape),
        };
        nanoseconds.min(LONGEST) as u64
    }

    fn mean(&self) -> f64 {
        match *self {
            Shape::Fixed(time) => time as f64,
            Shape::Uniform(least, most) => (least + most) as f64 / 2.0,
            Shape::Exponential(mean) => mean,
            Shape::LogNormal { median, sigma } => median * (sigma * sigma / 2.0).exp(),
            Shape::Pareto { shape, .. } if shape <= 1.0 => f64::INFINITY,
            Shape::Pareto { least, shape } => least * shape / (shape - 1.0),
            Shape::Measured { ref histogram, .. } => histogram.mean(),
        }
    }
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "0" {
            return Ok(Self::NONE);
        }
        let terms = text.split('+').map(|term| Term::parse(term.trim()));
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, String> {
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        if let Some(percent) = first.strip_suffix('%') {
            let percent: f64 =
                percent.parse().map_err(|_| format!("`{first}` is not a percentage"))?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(format!("{first} is not between 0% and 100%"));
            }
            return Ok(Self { probability: percent / 100.0, shape: Shape::parse(rest.trim())? });
        }
        Ok(Self { probability: 1.0, shape: Shape::parse(text)? })
    }
}

impl Shape {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix(MEASURED) {
            let name = name.trim();
            let histogram = Histogram::read(Path::new(name)).map_err(|e| format!("{e:#}"))?;
            return Ok(Shape::Measured { name: name.to_owned(), histogram: Arc::new(histogram) });
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let positive = |text: &str| match text.parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(format!("`{text}` is not a positive number")),
        };
        match words[..] {
            [fixed] => Ok(Shape::Fixed(time(fixed)?)),
            ["uniform", least, most] => match (time(least)?, time(most)?) {
                (from, to) if from <= to => Ok(Shape::Uniform(from, to)),
                _ => Err(format!("{least} is longer than {most}")),
            },
            ["exp", mean] => Ok(Shape::Exponential(time(mean)? as f64)),
            ["lognormal", median, sigma] => {
                Ok(Shape::LogNormal { median: time(median)? as f64, sigma: positive(sigma)? })
            }
            ["pareto", least, shape] => {
                Ok(Shape::Pareto { least: time(least)? as f64, shape: positive(shape)? })
            }
            _ => Err(format!(
                "`{text}` is no delay; one is `20us`, `uniform 5us 20us`, `exp 10us`, \
                 `lognormal 6us 0.7`, `pareto 1ms 1.5` or `measured FILE`, and sums of \
                 these as `6us + 0.1% exp 300us`"
            )),
        }
    }
}

fn time(text: &str) -> Result<u64, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("`{text}` is no time such as 20us or 1ms500us: {error}"))?;
    u64::try_from(time.as_nanos()).map_err(|_| format!("{text} is too long"))
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        for (number, Term { probability, shape }) in self.terms.iter().enumerate() {
            if number > 0 {
                f.write_str(" + ")?;
            }
            if *probability < 1.0 {
                write!(f, "{}% ", probability * 100.0)?;
            }
            let time = |nanoseconds: f64| show_time(Duration::from_nanos(nanoseconds as u64));
            match shape {
                Shape::Fixed(fixed) => write!(f, "{}", time(*fixed as f64))?,
                Shape::Uniform(from, to) => {
                    write!(f, "uniform {} {}", time(*from as f64), time(*to as f64))?;
                }
                Shape::Exponential(mean) => write!(f, "exp {}", time(*mean))?,
                Shape::LogNormal { median, sigma } => {
                    write!(f, "lognormal {} {sigma}", time(*median))?;
                }
                Shape::Pareto { least, shape } => write!(f, "pareto {} {shape}", time(*least))?,
                Shape::Measured { name, .. } => write!(f, "measured {name}")?,
            }
        }
        Ok(())
    }
}

/// A time as it is read again, without blanks.
pub fn show_time(time: Duration) -> String {
    if time.is_zero() {
        return "0s".to_owned();
    }
    humantime::format_duration(time).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Entity;

    fn mean_of(text: &str) -> (f64, f64) {
        let delay: Delay = text.parse().unwrap();
        let mut chance = Chance::new(1, Entity::Load);
        let draws = 200_000;
        let sum: u64 = (0..draws).map(|_| delay.draw(&mut chance)).sum();
        (sum as f64 / f64::from(draws), delay.mean())
    }

    #[test]
    fn what_is_drawn_has_the_mean_that_is_told() {
        for text in
            ["6us", "uniform 5us 20us", "exp 10us", "lognormal 6us 0.7", "1us + 10% exp 300us", "0"]
        {
            let (drawn, told) = mean_of(text);
            assert!((drawn - told).abs() <= 0.02 * told, "{text}: {drawn} and {told}");
        }
        let pareto: Delay = "pareto 1ms 3".parse().unwrap();
        assert_eq!(pareto.mean(), 1_500_000.0);
    }

    #[test]
    fn a_delay_is_shown_as_it_is_read() {
        for text in [
            "0",
            "6us",
            "1ms500us",
            "uniform 5us 20us",
            "lognormal 6us 0.7 + 0.1% exp 300us",
            "pareto 1ms 1.5",
        ] {
            assert_eq!(text.parse::<Delay>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("fast", "`fast` is no time"),
            ("uniform 20us 5us", "longer"),
            ("lognormal 6us -1", "`-1` is not a positive number"),
            ("6us + 200% exp 1us", "between 0% and 100%"),
            ("normal 6us 1us", "is no delay"),
        ] {
            let error = text.parse::<Delay>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
