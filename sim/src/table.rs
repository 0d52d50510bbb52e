//! Tables for people: columns side by side, numbers to the right.

/// Lays out a table. The first column is text, the others are numbers.
pub fn lay_out(head: &[&str], rows: &[Vec<String>]) -> String {
    let length = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = head.iter().map(|title| length(title)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = length(cell).max(*width);
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            match column {
                0 => line += &format!("{cell:<width$}"),
                _ => line += &format!("  {cell:>width$}"),
            }
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    };
    let mut table = line(&mut head.iter().copied());
    for row in rows {
        table += &line(&mut row.iter().map(String::as_str));
    }
    table
}

/// A number with about five digits: enough for people, who compare.
pub fn number(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return format!("{number}");
    }
    let before_point = number.abs().log10().floor() as i32 + 1;
    match before_point {
        -3..=5 => format!("{number:.*}", (5 - before_point).clamp(0, 7) as usize),
        6..=15 => format!("{number:.0}"),
        _ => format!("{number:.4e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["claims", "1"], ["x", "20000"]].map(|row| row.map(str::to_owned).to_vec());
        let table = lay_out(&["figure", "mean"], &rows);
        assert_eq!(table, "figure   mean\nclaims      1\nx       20000\n");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1000.0, "1000"),
            (-3.0, "-3"),
            (1.01437, "1.0144"),
            (266.123_456, "266.12"),
            (12_345.678, "12346"),
            (1_234_567.8, "1234568"),
            (0.012_345_67, "0.012346"),
            (-0.000_012_345_67, "-1.2346e-5"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
