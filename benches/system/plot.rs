//! The figures of a section as an SVG: a panel for each figure, a bar for each run's median, a dot for each round, a
//! dashed line where a goal is.

use std::fmt::Write as _;

use crate::goals::Judged;
use crate::plan::Planned;
use crate::report::{COLUMNS, Column, Figures, median, number};

const WIDTH: f64 = 860.0;
const LABEL_WIDTH: f64 = 320.0;
const VALUE_WIDTH: f64 = 70.0;
const BAR: f64 = 16.0;
const ROW: f64 = 24.0;
const HEAD: f64 = 44.0;
/// Room over the longest bar.
const HEADROOM: f64 = 1.05;

/// The plot as text.
pub fn svg(title: &str, runs: &[Planned], figures: &[Vec<Figures>], judged: &[Judged]) -> String {
    let panels: Vec<&Column> =
        COLUMNS.iter().filter(|column| column.is_plotted && column.is_known(figures)).collect();
    let panel_height = HEAD + ROW * runs.len() as f64;
    let height = 40.0 + panel_height * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    for (at, column) in panels.iter().enumerate() {
        let top = 40.0 + panel_height * at as f64;
        panel(&mut out, top, column, (runs, figures), judged);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(
    out: &mut String,
    top: f64,
    column: &Column,
    (runs, figures): (&[Planned], &[Vec<Figures>]),
    judged: &[Judged],
) {
    let value = |figures: &Figures| figures.get(column.name) * column.scale;
    let limits = judged.iter().filter(|judged| judged.goal.figure == column.name);
    let limits: Vec<(&str, f64)> =
        limits.filter_map(|judged| Some((&*judged.label, judged.limit()? * column.scale))).collect();
    let values = figures.iter().flatten().map(value).filter(|value| value.is_finite());
    let most = values.chain(limits.iter().map(|(_, limit)| *limit)).fold(0.0, f64::max) * HEADROOM;
    let room = WIDTH - LABEL_WIDTH - VALUE_WIDTH;
    let x = |value: f64| LABEL_WIDTH + if most > 0.0 { value / most * room } else { 0.0 };
    // Writing into a String cannot fail.
    let _ = writeln!(
        out,
        "<text x=\"12\" y=\"{}\" font-weight=\"bold\">{}</text>",
        top + 26.0,
        escaped(column.head)
    );
    for (row, (run, rounds)) in runs.iter().zip(figures).enumerate() {
        let y = top + HEAD + ROW * row as f64;
        let middle = median(rounds.iter().map(value));
        if !middle.is_finite() {
            continue;
        }
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABEL_WIDTH}\" y=\"{}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"#7aa6c2\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LABEL_WIDTH - 8.0,
            y + 4.0,
            escaped(&run.label),
            y - BAR / 2.0,
            x(middle) - LABEL_WIDTH,
            WIDTH - VALUE_WIDTH + 8.0,
            y + 4.0,
            number(middle, column.digits),
        );
        for dot in rounds.iter().map(value).filter(|value| value.is_finite()) {
            let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{y}\" r=\"2.5\" fill=\"#1d3c52\"/>", x(dot));
        }
        for (_, limit) in limits.iter().filter(|(label, _)| *label == run.label) {
            let _ = writeln!(
                out,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#b3261e\" stroke-dasharray=\"3 2\"/>",
                x(*limit),
                y - ROW / 2.0 + 1.0,
                y + ROW / 2.0 - 1.0
            );
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
