//! Values of a scenario: how each kind is written, read and bounded.

use std::fmt::Display;
use std::time::Duration;

use crate::delay::{Delay, show_time};

/// Something that a scenario can set.
pub trait Setting: Sized {
    /// What may be written, for messages and the reference.
    const KIND: &'static str;

    /// Reads it. The error says what is wrong with the text, without naming the key.
    fn read(text: &str) -> Result<Self, String>;

    /// Writes it so that it can be read again.
    fn show(&self) -> String;

    /// It may be written as a list.
    const IS_LIST: bool = false;

    /// The unit of [`Setting::number`], as the end of a column's name; empty if it has none.
    const UNIT: &'static str = "";

    /// It in that unit, if it is a number.
    fn number(&self) -> Option<f64> {
        None
    }

    /// The value that is this number; `None` if it is none of this kind.
    fn of_number(_number: f64) -> Option<Self> {
        None
    }
}

macro_rules! number {
    ($($type:ty: $kind:literal),*) => {$(
        impl Setting for $type {
            const KIND: &'static str = $kind;

            fn read(text: &str) -> Result<Self, String> {
                text.replace('_', "").parse().map_err(|_| format!("`{text}` is not {}", Self::KIND))
            }

            fn show(&self) -> String {
                self.to_string()
            }

            fn number(&self) -> Option<f64> {
                Some(*self as f64)
            }

            fn of_number(number: f64) -> Option<Self> {
                // A conversion between numbers saturates and cuts off.
                let value = number as $type;
                (value as f64 == number).then_some(value)
            }
        }
    )*};
}

number!(usize: "a whole number", u32: "a whole number", u64: "a whole number", f64: "a number");

impl Setting for bool {
    const KIND: &'static str = "true or false";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("`{text}` is neither true nor false"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    const KIND: &'static str = "a time such as 250us or 1s";

    fn read(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Duration::ZERO);
        }
        humantime::parse_duration(text).map_err(|error| format!("`{text}` is no time: {error}"))
    }

    fn show(&self) -> String {
        show_time(*self)
    }

    const UNIT: &'static str = "us";

    fn number(&self) -> Option<f64> {
        Some(self.as_nanos() as f64 / 1e3)
    }

    fn of_number(number: f64) -> Option<Self> {
        let nanoseconds = (number * 1e3).round();
        (0.0..u64::MAX as f64)
            .contains(&nanoseconds)
            .then(|| Duration::from_nanos(nanoseconds as u64))
    }
}

impl Setting for Delay {
    const KIND: &'static str = "a delay such as 20us, exp 10us, uniform 5us 20us, lognormal 6us 0.7 (see `parameters` for all)";

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A share between nothing and everything, written `0.1%` or `0.001`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(pub f64);

impl Setting for Share {
    const KIND: &'static str = "a share from 0% to 100%, such as 0.1% or 0.001";

    fn read(text: &str) -> Result<Self, String> {
        let (number, unit) = match text.strip_suffix('%') {
            Some(percent) => (percent, 0.01),
            None => (text, 1.0),
        };
        match number.trim().parse::<f64>() {
            Ok(number) if (0.0..=1.0).contains(&(number * unit)) => Ok(Self(number * unit)),
            Ok(_) => Err(format!("{text} is not between 0% and 100%")),
            Err(_) => Err(format!("`{text}` is not {}", Self::KIND)),
        }
    }

    fn show(&self) -> String {
        format!("{}", self.0)
    }

    fn number(&self) -> Option<f64> {
        Some(self.0)
    }

    fn of_number(number: f64) -> Option<Self> {
        (0.0..=1.0).contains(&number).then_some(Self(number))
    }
}

/// Bits per second, written `100Mbit` or `1Gbit`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

impl Rate {
    /// How long so many bytes take, in nanoseconds.
    pub fn time_of(self, bytes: u32) -> u64 {
        (f64::from(bytes) * 8e9 / self.0) as u64
    }
}

const RATE_UNITS: [(&str, f64); 4] = [("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];

impl Setting for Rate {
    const KIND: &'static str = "a rate such as 10Mbit or 1Gbit";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not {}", Self::KIND);
        let (number, unit) = RATE_UNITS
            .iter()
            .find_map(|&(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))
            .ok_or_else(wrong)?;
        match number.trim().parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => Ok(Self(number * unit)),
            _ => Err(wrong()),
        }
    }

    fn show(&self) -> String {
        // Only a unit in which it is read again to the last bit.
        let fits = |unit: f64| self.0 >= unit && self.0 / unit * unit == self.0;
        let (suffix, unit) =
            RATE_UNITS.iter().find(|(_, unit)| fits(*unit)).unwrap_or(&RATE_UNITS[3]);
        format!("{}{suffix}", self.0 / unit)
    }

    const UNIT: &'static str = "bit_per_s";

    fn number(&self) -> Option<f64> {
        Some(self.0)
    }

    fn of_number(number: f64) -> Option<Self> {
        (number > 0.0 && number.is_finite()).then_some(Self(number))
    }
}

/// A list of values, separated by commas.
impl<S: Setting> Setting for Vec<S> {
    const KIND: &'static str = "a list, separated by commas";
    const IS_LIST: bool = true;

    fn read(text: &str) -> Result<Self, String> {
        text.split(',').map(|word| S::read(word.trim())).collect()
    }

    fn show(&self) -> String {
        self.iter().map(S::show).collect::<Vec<_>>().join(",")
    }
}

/// Declares an enum whose variants are written as words.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant),+
        }

        impl $crate::setting::Setting for $name {
            const KIND: &'static str = concat!("one of" $(, " ", $word)+);

            fn read(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("`{text}` is not {}", <Self as $crate::setting::Setting>::KIND)),
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => $word),+ }.to_owned()
            }
        }
    };
}
pub(crate) use choice;

/// What a value must lie between; the bounds are written like values.
pub struct Bounds<S> {
    /// The least, if there is one.
    pub least: Option<S>,
    /// The greatest, if there is one.
    pub most: Option<S>,
}

impl<S: Setting + PartialOrd> Bounds<S> {
    /// Says which bound is broken.
    pub fn check(&self, value: &S) -> Result<(), String> {
        // What is no number is neither below nor above anything.
        let enough = self.least.as_ref().is_none_or(|least| value >= least);
        let not_too_much = self.most.as_ref().is_none_or(|most| value <= most);
        if enough && not_too_much {
            return Ok(());
        }
        Err(format!("{} is not {self}", value.show()))
    }
}

impl<S: Setting> Display for Bounds<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.least, &self.most) {
            (Some(least), Some(most)) => write!(f, "between {} and {}", least.show(), most.show()),
            (Some(least), None) => write!(f, "at least {}", least.show()),
            (None, Some(most)) => write!(f, "at most {}", most.show()),
            (None, None) => f.write_str("anything"),
        }
    }
}
