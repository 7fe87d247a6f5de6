//! Headline ratios over all reports of a folder, as one chart.
//!
//! Invariant: a line joins what was measured, in the order of time; a report that did not measure
//! a thing has no point for it. Read next: `index.rs`.

use std::path::Path;

use plotters::prelude::{Circle, IntoDrawingArea, PathElement, SVGBackend};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, FontStyle, RGBColor};

use super::Error;
use super::numbers::Quantity;
use super::panels::{
    Canvas, DrawError, FAINT_INK, GRID, INK, MARGIN, PAPER, Scale, WIDTH, style, text,
};

/// The chart's file, beside the index.
pub(super) const FILE_NAME: &str = "trend.svg";

/// One ratio over all reports.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// What it is the ratio of.
    pub(super) name: &'static str,
    /// By report, the oldest first.
    pub(super) ratios: Vec<Option<f64>>,
}

// All in pixels.
const LEFT: i32 = 60;
const RIGHT: i32 = WIDTH - 170;
const TOP: i32 = 60;
const BOTTOM: i32 = 300;
const HEIGHT: i32 = 350;
const LABEL_HEIGHT: i32 = 16;

const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1d, 0x6f, 0xd6),
    RGBColor(0xd7, 0x3a, 0x49),
    RGBColor(0x2d, 0x8f, 0x4e),
    RGBColor(0xe3, 0x9b, 0x1f),
    RGBColor(0x7a, 0x4f, 0xc0),
    RGBColor(0x0f, 0x8b, 0x8d),
];

/// Draws `lines` over the reports called `names` into `folder`, the oldest to the left.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(folder: &Path, names: &[String], lines: &[Line]) -> Result<(), Error> {
    let path = folder.join(FILE_NAME);
    let size = (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs());
    let canvas = SVGBackend::new(&path, size).into_drawing_area();
    draw_lines(&canvas, names, lines).map_err(|error| Error::Chart {
        path: path.clone(),
        reason: error.to_string(),
    })
}

fn draw_lines<'a>(
    canvas: &Canvas<'a>,
    names: &[String],
    lines: &[Line],
) -> Result<(), DrawError<'a>> {
    canvas.fill(&PAPER)?;
    let heading = style(19, INK, FontStyle::Bold, HPos::Left);
    let title = "CPU time of lb ÷ that of the better of nginx and HAProxy (less is better)";
    text(canvas, title, (MARGIN, MARGIN), &heading)?;
    let ratios = || lines.iter().flat_map(|line| line.ratios.iter().flatten());
    let scale = Scale::linear(ratios().copied().fold(1.0, f64::max), Quantity::Count);
    let y = |ratio: f64| BOTTOM - (scale.share(ratio) * f64::from(BOTTOM - TOP)).round() as i32;
    let right = style(12, FAINT_INK, FontStyle::Normal, HPos::Right);
    for mark in scale.marks() {
        let line = PathElement::new([(LEFT, y(mark)), (RIGHT, y(mark))], GRID.stroke_width(1));
        canvas.draw(&line)?;
        let words = Quantity::Count.mark(mark);
        text(canvas, &words, (LEFT - 8, y(mark)), &right)?;
    }
    let centre = style(12, FAINT_INK, FontStyle::Normal, HPos::Center);
    for (place, name) in names.iter().enumerate() {
        // Neighbours on two lines in turn, so that they do not overlap.
        let below = BOTTOM + 18 + 16 * i32::from(place % 2 == 1);
        text(canvas, name, (x(place, names.len()), below), &centre)?;
    }
    let mut label_below = TOP - LABEL_HEIGHT;
    let mut by_end: Vec<_> = lines.iter().zip(COLOURS.iter().cycle()).collect();
    by_end.sort_by_key(|(line, _)| line.ratios.iter().rev().flatten().next().map(|r| y(*r)));
    for (line, colour) in by_end {
        let points: Vec<(i32, i32)> = (0..)
            .zip(&line.ratios)
            .filter_map(|(place, ratio)| Some((x(place, names.len()), y((*ratio)?))))
            .collect();
        let Some(last) = points.last().copied() else {
            continue;
        };
        for point in &points {
            canvas.draw(&Circle::new(*point, 4, colour.filled()))?;
        }
        canvas.draw(&PathElement::new(points, colour.stroke_width(2)))?;
        // Names of lines that end close to each other stand one below the other.
        label_below = last.1.max(label_below + LABEL_HEIGHT);
        let words = style(12, *colour, FontStyle::Normal, HPos::Left);
        text(canvas, line.name, (RIGHT + 12, label_below), &words)?;
    }
    canvas.present()
}

/// The place of the report at `place` of `count` on the level axis.
fn x(place: usize, count: usize) -> i32 {
    let share = (place as f64 + 0.5) / count.max(1) as f64;
    LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_has_a_point_and_the_rest_none() {
        let folder = std::env::temp_dir().join(format!("trend-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let names = ["a & b", "c", "d"].map(str::to_owned);
        let lines = [
            Line {
                name: "HTTP",
                ratios: vec![Some(0.9), None, Some(0.7)],
            },
            Line {
                name: "UDP",
                ratios: vec![None, None, None],
            },
        ];
        draw(&folder, &names, &lines).unwrap();
        let picture = std::fs::read_to_string(folder.join(FILE_NAME)).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(picture.matches("<circle").count(), 2, "{picture}");
        assert!(picture.contains("HTTP") && !picture.contains("UDP"));
        assert!(picture.contains("a &amp; b"));
    }
}
