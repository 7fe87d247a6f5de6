//! The upright axis of charts that run from left to right.
//!
//! Invariant: every mark has its line and its label.
//! Read next: `timeline.rs` and `percentiles.rs`, which have one.

use plotters::prelude::PathElement;
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, FontStyle};

use super::numbers::Quantity;
use super::panels::{Canvas, DrawError, FAINT_INK, GRID, MARGIN, Scale, WIDTH, style, text};

/// Where the chart begins and ends, in pixels.
pub(super) const LEFT: i32 = 90;
pub(super) const RIGHT: i32 = WIDTH - MARGIN;

/// From `bottom` to `top`, in pixels.
pub(super) struct Axis {
    pub(super) scale: Scale,
    pub(super) quantity: Quantity,
    pub(super) top: i32,
    pub(super) bottom: i32,
}

impl Axis {
    /// The place of `value` on it.
    pub(super) fn y(&self, value: f64) -> i32 {
        let height = f64::from(self.bottom - self.top);
        self.bottom - (self.scale.share(value) * height).round() as i32
    }

    pub(super) fn draw<'a>(&self, canvas: &Canvas<'a>) -> Result<(), DrawError<'a>> {
        let right = style(12, FAINT_INK, FontStyle::Normal, HPos::Right);
        for mark in self.scale.marks() {
            let y = self.y(mark);
            let line = PathElement::new([(LEFT, y), (RIGHT, y)], GRID.stroke_width(1));
            canvas.draw(&line)?;
            text(canvas, &self.quantity.mark(mark), (LEFT - 8, y), &right)?;
        }
        Ok(())
    }
}
