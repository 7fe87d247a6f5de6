//! The list of cuts by which a head is forwarded without taking it apart.
//!
//! Invariant: cuts are in ascending order and do not overlap.
//! Read next: `forward.rs` and `response.rs` (who copy by them).

use lb_core::rt::Buffer;

use super::head::{HeadError, Span};

/// The parts of a head that are not forwarded, and at most one place where text is put in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cuts {
    spans: [Span; Self::MAX],
    len: u8,
}

impl Cuts {
    /// Neighbouring lines share one cut, so real heads need one or two.
    const MAX: usize = 12;

    /// Removes `line`, which lies behind all earlier cuts.
    #[inline]
    pub(crate) fn remove(&mut self, line: Span) -> Result<(), HeadError> {
        let len = usize::from(self.len);
        if let Some(last) = self.spans[..len].last_mut()
            && last.end == line.start
            && !last.is_empty()
        {
            last.end = line.end;
            return Ok(());
        }
        *self
            .spans
            .get_mut(len)
            .ok_or(HeadError::TooManyHopByHopFields)? = line;
        self.len += 1;
        Ok(())
    }

    /// Marks `at` as the place for an insertion, which must not lie within a cut.
    #[inline]
    pub(crate) fn insert_at(&mut self, at: usize) -> Result<(), HeadError> {
        let len = usize::from(self.len);
        if len == Self::MAX {
            return Err(HeadError::TooManyHopByHopFields);
        }
        let index = self.spans[..len].partition_point(|cut| cut.end() <= at);
        self.spans.copy_within(index..len, index + 1);
        self.spans[index] = Span::new(at, at);
        self.len += 1;
        Ok(())
    }

    /// Appends `head[from..to]` without the cuts to `out`, and `insertion` at its place.
    #[inline]
    pub(crate) fn copy(
        &self,
        head: &[u8],
        from: usize,
        to: usize,
        insertion: &[u8],
        out: &mut HeadWriter<'_>,
    ) {
        let mut at = from;
        for cut in &self.spans[..usize::from(self.len)] {
            out.push(&head[at..cut.start()]);
            if cut.is_empty() {
                out.push(insertion);
            }
            at = cut.end();
        }
        out.push(&head[at..to]);
    }
}

/// Appends to a buffer and remembers whether everything did fit.
pub(crate) struct HeadWriter<'a> {
    buffer: &'a mut Buffer,
    fits: bool,
}

impl<'a> HeadWriter<'a> {
    pub(crate) const fn new(buffer: &'a mut Buffer) -> Self {
        Self { buffer, fits: true }
    }

    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.fits &= self.buffer.push(bytes);
    }

    /// Ends the head with the blank line.
    pub(crate) fn finish(mut self) -> Result<(), HeadError> {
        self.push(b"\r\n");
        if self.fits {
            Ok(())
        } else {
            Err(HeadError::HeadTooLong)
        }
    }
}
