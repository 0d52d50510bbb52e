//! The diagram as SVG, with slanted arrows for messages. It needs nothing but itself.

use std::fmt::Write as _;

use super::{Diagram, Mark};

const TOP: usize = 60;
const ROW: usize = 20;
const TIME: usize = 110;
const LANE: usize = 90;
const WORDS: usize = 560;

const STYLE: &str = "text{font:12px monospace}.life{stroke:#999}.message{stroke:#26c;marker-end:url(#tip)}\
.lost{stroke:#c33;stroke-dasharray:5 4}\
.Sends{fill:#26c}.Gets{fill:#fff;stroke:#26c}.Accepts{fill:#2a2}.Drops{fill:#c33}.Loses{fill:none;stroke:#c33;stroke-width:2}.Happens{fill:#555}";

/// Draws it.
pub fn draw(diagram: &Diagram) -> String {
    let heads = diagram.heads();
    let x = |column: usize| TIME + LANE * column + LANE / 2;
    let y = |row: usize| TOP + ROW * row;
    let right = TIME + LANE * heads.len();
    let (width, height) = (right + WORDS, y(diagram.lines.len()) + ROW);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\">\n<style>{STYLE}</style>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#26c\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"18\">{}</text>\n<text x=\"{}\" y=\"42\" text-anchor=\"end\">microseconds</text>\n",
        escape(&diagram.title()),
        TIME - 10,
    );
    let mut put =
        |element: String| writeln!(svg, "{element}").expect("writing to a string cannot fail");
    for (column, head) in heads.iter().enumerate() {
        let (x, bottom) = (x(column), height - ROW / 2);
        put(format!("<text x=\"{x}\" y=\"42\" text-anchor=\"middle\">{head}</text>"));
        put(format!("<line class=\"life\" x1=\"{x}\" y1=\"48\" x2=\"{x}\" y2=\"{bottom}\"/>"));
    }
    for &(from, to) in &diagram.arrows {
        let (from_x, to_x) = (x(diagram.lines[from].column), x(diagram.lines[to].column));
        // The tip ends at the rim of the circle, and what is lost in its cross.
        let (class, gap) = match diagram.lines[to].mark {
            Mark::Loses => ("lost", 0),
            Mark::Sends | Mark::Gets | Mark::Accepts | Mark::Drops | Mark::Happens => {
                ("message", 5)
            }
        };
        let tip = if to_x > from_x { to_x - gap } else { to_x + gap };
        let (y1, y2) = (y(from), y(to));
        put(format!(
            "<line class=\"{class}\" x1=\"{from_x}\" y1=\"{y1}\" x2=\"{tip}\" y2=\"{y2}\"/>"
        ));
    }
    for (row, line) in diagram.lines.iter().enumerate() {
        let (x, y) = (x(line.column), y(row));
        let mark: Mark = line.mark;
        put(match mark {
            Mark::Loses => {
                let (left, top) = (x - 5, y - 5);
                format!("<path class=\"{mark:?}\" d=\"M{left} {top}l10 10m0 -10l-10 10\"/>")
            }
            Mark::Sends | Mark::Gets | Mark::Accepts | Mark::Drops | Mark::Happens => {
                format!("<circle class=\"{mark:?}\" cx=\"{x}\" cy=\"{y}\" r=\"4\"/>")
            }
        });
        put(format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.3}</text>",
            TIME - 10,
            y + 4,
            diagram.since_begin(line)
        ));
        put(format!("<text x=\"{right}\" y=\"{}\">{}</text>", y + 4, escape(&line.text)));
    }
    put("</svg>".to_owned());
    svg
}

/// Text within an element.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
