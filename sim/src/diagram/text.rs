//! The diagram for a terminal: 100 columns for three hosts.

use std::fmt::Write as _;

use super::{Diagram, Mark};

/// Columns of the time, of each lifeline, and of what is said beside them.
const TIME: usize = 13;
const LANE: usize = 8;
const WORDS: usize = 54;
/// Nobody reads more.
const LINES_MAX: usize = 400;

/// Draws it.
pub fn draw(diagram: &Diagram) -> String {
    let mut text = format!("{}\n\n{:>TIME$}", diagram.title(), "microseconds");
    for head in diagram.heads() {
        write!(text, "{head:^LANE$}").expect("writing to a string cannot fail");
    }
    text.push('\n');
    let lanes = diagram.hosts + 1;
    for line in diagram.lines.iter().take(LINES_MAX) {
        let mark = match line.mark {
            Mark::Sends => "o-->",
            Mark::Gets => "-->o",
            Mark::Accepts => "[+]",
            Mark::Drops => "[-]",
            Mark::Loses => "--x",
            Mark::Happens => "*",
        };
        let mut time = format!("{:.3}", diagram.since_begin(line));
        for (number, words) in wrap(&line.text, WORDS).into_iter().enumerate() {
            write!(text, "{time:>TIME$}").expect("writing to a string cannot fail");
            time.clear();
            for lane in 0..lanes {
                let sign = if lane == line.column && number == 0 { mark } else { "|" };
                write!(text, "{sign:^LANE$}").expect("writing to a string cannot fail");
            }
            writeln!(text, " {words}").expect("writing to a string cannot fail");
        }
    }
    if let Some(more) = diagram.lines.len().checked_sub(LINES_MAX + 1) {
        writeln!(text, "and {} lines more", more + 1).expect("writing to a string cannot fail");
    }
    text
}

/// Breaks between words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().unwrap_or_else(|| unreachable!("there is a first line"));
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(format!("  {word}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_not_broken() {
        assert_eq!(wrap("one two three", 8), ["one two", "  three"]);
        assert_eq!(wrap("", 8), [""]);
    }
}
