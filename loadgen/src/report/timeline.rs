//! Answers over time, with a mark at each thing that happened.
//!
//! Invariant: the axes begin at zero; what failed or came late is drawn on the same scale as what
//! was answered, so that a small fault looks small.

use std::path::Path;

use plotters::prelude::{IntoDrawingArea, PathElement, Rectangle, SVGBackend};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, FontStyle, RGBColor};

use super::Error;
use super::axis::{Axis, LEFT, RIGHT};
use super::charts::OURS;
use super::faults::record::Event;
use super::numbers::Quantity;
use super::panels::{Canvas, DrawError, FAINT_INK, INK, MARGIN, PAPER, Scale, WIDTH, style, text};
use crate::run::Second;

// All in pixels.
/// Below the title, and below the labels of events.
const TOP: i32 = 60;
const TOP_WITH_EVENTS: i32 = 170;
const BOTTOM: i32 = 420;
const HEIGHT: i32 = 500;
/// Labels of events stand on so many lines in turn, so that neighbours do not overlap.
const LABEL_LINES: i32 = 4;
const LABEL_HEIGHT: i32 = 18;

const FAILED: RGBColor = RGBColor(0xd7, 0x3a, 0x49);
const DELAYED: RGBColor = RGBColor(0xe3, 0x9b, 0x1f);

/// Draws `timeline` under `title` into the file at `path`.
pub(super) fn draw(
    path: &Path,
    title: &str,
    events: &[Event],
    timeline: &[Second],
) -> Result<(), Error> {
    let size = (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs());
    let canvas = SVGBackend::new(path, size).into_drawing_area();
    draw_all(&canvas, title, events, timeline).map_err(|e| Error::Chart {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

fn draw_all<'a>(
    canvas: &Canvas<'a>,
    title: &str,
    events: &[Event],
    timeline: &[Second],
) -> Result<(), DrawError<'a>> {
    canvas.fill(&PAPER)?;
    let heading = style(19, INK, FontStyle::Bold, HPos::Left);
    text(canvas, title, (MARGIN, MARGIN), &heading)?;
    let most = timeline.iter().map(|s| s.completed + s.errors);
    let axis = Axis {
        scale: Scale::linear(most.max().unwrap_or(0) as f64, Quantity::Count),
        quantity: Quantity::Count,
        bottom: BOTTOM,
        top: if events.is_empty() {
            TOP
        } else {
            TOP_WITH_EVENTS
        },
    };
    axis.draw(canvas)?;
    let seconds = timeline.iter().map(|s| s.t + 1).max().unwrap_or(1);
    let x = |second: u64| {
        let share = second as f64 / seconds as f64;
        LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32
    };
    for second in timeline {
        draw_second(canvas, second, [x(second.t), x(second.t + 1)], &axis)?;
    }
    for (place, event) in (0..).zip(events) {
        let label = TOP + place % LABEL_LINES * LABEL_HEIGHT;
        let at = x(event.at_s);
        let mark = PathElement::new([(at, label), (at, BOTTOM)], INK.stroke_width(1));
        canvas.draw(&mark)?;
        let words = style(12, INK, FontStyle::Normal, HPos::Left);
        let what = format!("{} s: {}", event.at_s, event.what);
        text(canvas, &what, (at + 4, label), &words)?;
    }
    draw_legend(canvas)?;
    canvas.present()
}

fn draw_second<'a>(
    canvas: &Canvas<'a>,
    second: &Second,
    [left, right]: [i32; 2],
    axis: &Axis,
) -> Result<(), DrawError<'a>> {
    let in_time = second.completed.saturating_sub(second.delayed);
    let mut below = 0;
    for (count, colour) in [
        (in_time, OURS),
        (second.delayed, DELAYED),
        (second.errors, FAILED),
    ] {
        if count == 0 {
            continue;
        }
        let (from, to) = (below as f64, (below + count) as f64);
        let top = axis.y(to).min(axis.y(from) - 1);
        let corners = [(left, top), (right - 1, axis.y(from))];
        canvas.draw(&Rectangle::new(corners, colour.filled()))?;
        below += count;
    }
    Ok(())
}

fn draw_legend<'a>(canvas: &Canvas<'a>) -> Result<(), DrawError<'a>> {
    let words = style(12, FAINT_INK, FontStyle::Normal, HPos::Left);
    let mut at = LEFT;
    for (what, colour, width) in [
        ("answered per second", OURS, 150),
        ("answered late", DELAYED, 120),
        ("failed", FAILED, 70),
    ] {
        let corners = [(at, BOTTOM + 34), (at + 12, BOTTOM + 46)];
        canvas.draw(&Rectangle::new(corners, colour.filled()))?;
        text(canvas, what, (at + 18, BOTTOM + 40), &words)?;
        at += width;
    }
    Ok(())
}
