//! Where the marks of an axis are, and what they say.

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps add.
    Linear,
    /// Equal steps multiply.
    Logarithmic,
}

impl Scale {
    /// Of an axis that multiplies or not.
    pub fn new(logarithmic: bool) -> Self {
        if logarithmic { Scale::Logarithmic } else { Scale::Linear }
    }

    /// Where a value lies.
    pub fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        }
    }

    /// The value that lies there.
    pub fn value(self, place: f64) -> f64 {
        match self {
            Scale::Linear => place,
            Scale::Logarithmic => 10f64.powf(place),
        }
    }

    /// Whether a value can be drawn.
    pub fn shows(self, value: f64) -> bool {
        self == Scale::Linear || value > 0.0
    }
}

/// Steps of 1, 2 or 5, about six of them; on a logarithmic axis powers of ten, of little also 2
/// and 5 of each.
pub fn ticks(scale: Scale, from: f64, to: f64) -> Vec<f64> {
    let whole = |from: f64, to: f64| from.ceil() as i32..=to.floor() as i32;
    match scale {
        Scale::Linear => {
            let step = step(to - from);
            whole(from / step, to / step).map(|number| f64::from(number) * step).collect()
        }
        Scale::Logarithmic if to - from > 9.0 => {
            let even = |decade: &i32| decade % 2 == 0;
            whole(from, to).filter(even).map(f64::from).collect()
        }
        Scale::Logarithmic if to - from > 2.2 => whole(from, to).map(f64::from).collect(),
        Scale::Logarithmic => {
            let within = |place: &f64| (from..=to).contains(place);
            let decades = whole(from.floor(), to);
            let places = decades.flat_map(|decade| {
                [1.0f64, 2.0, 5.0].map(|digit| f64::from(decade) + digit.log10())
            });
            let places: Vec<f64> = places.filter(within).collect();
            if places.len() > 2 {
                return places;
            }
            // So little that steps of equal length show more.
            let values = ticks(Scale::Linear, scale.value(from), scale.value(to));
            values.into_iter().map(|value| scale.place(value)).filter(within).collect()
        }
    }
}

/// A step that divides such a length into four to eight parts or so.
fn step(length: f64) -> f64 {
    let rough = (length / 7.0).max(f64::MIN_POSITIVE);
    let decade = 10f64.powf(rough.log10().floor());
    let digit = rough / decade;
    let digits = [1.0, 2.0, 5.0, 10.0];
    decade * digits.into_iter().find(|&it| digit <= it).unwrap_or(10.0)
}

/// A value at a mark: three digits.
pub fn label(value: f64) -> String {
    digits(value, 3)
}

/// A number for people, to so many digits, without zeros at its end.
pub fn digits(value: f64, digits: usize) -> String {
    let places = digits.saturating_sub(1);
    let rounded = format!("{value:.places$e}").parse::<f64>().unwrap_or(value);
    let size = rounded.abs();
    if rounded == 0.0 {
        return "0".to_owned();
    }
    if (1e-4..1e7).contains(&size) { format!("{rounded}") } else { format!("{rounded:e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, from: f64, to: f64) -> String {
        let labels = ticks(scale, scale.place(from), scale.place(to));
        labels.into_iter().map(|place| label(scale.value(place))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn numbers_have_so_many_digits() {
        for (value, places, text) in [
            (43.4, 3, "43.4"),
            (0.000_123_45, 2, "0.00012"),
            (0.0, 3, "0"),
            (99.96, 3, "100"),
            (-12_345.0, 2, "-12000"),
            (0.000_001, 3, "1e-6"),
        ] {
            assert_eq!(digits(value, places), text);
        }
    }

    #[test]
    fn marks_are_round_numbers() {
        for (scale, from, to, expected) in [
            (Scale::Linear, 0.0, 100.0, "0 20 40 60 80 100"),
            (Scale::Linear, -2.0, 6.0, "-2 0 2 4 6"),
            (Scale::Linear, 0.0, 0.45, "0 0.1 0.2 0.3 0.4"),
            (Scale::Logarithmic, 0.5, 2e6, "1 10 100 1000 10000 100000 1000000"),
            (Scale::Logarithmic, 3.0, 60.0, "5 10 20 50"),
            (Scale::Logarithmic, 190.0, 340.0, "200 250 300"),
        ] {
            assert_eq!(labels(scale, from, to), expected);
        }
    }
}
