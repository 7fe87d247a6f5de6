//! What was coded before is not coded again: lines of heads that are sent, blocks that are received.
//! Messages of one connection are much alike, those of gRPC mostly the same.
//!
//! Invariant: what is recalled is what coding would yield now: the bytes are the same, and the table
//! that they mean is as it was. Memory is bounded by the constants below.
//! Read next: `write.rs`, `block.rs` (who ask).

use super::head::{HeadFacts, HeadKind};

/// Lines that are remembered, and the longest of them, as text and as code.
const LINES_MAX: usize = 24;
const LINE_BYTES_MAX: usize = 84;
const CODE_BYTES_MAX: usize = 16;

/// The lines of the last head that was sent, each with its code.
#[derive(Debug, Default)]
pub(super) struct KnownLines {
    lines: Vec<Line>,
}

#[derive(Debug, Clone)]
struct Line {
    /// Of the encoder's table.
    changes: u64,
    text_len: u8,
    code_len: u8,
    mark: bool,
    code: [u8; CODE_BYTES_MAX],
    text: [u8; LINE_BYTES_MAX],
}

impl Line {
    const EMPTY: Self = Self {
        changes: 0,
        text_len: 0,
        code_len: 0,
        mark: false,
        code: [0; CODE_BYTES_MAX],
        text: [0; LINE_BYTES_MAX],
    };
}

impl KnownLines {
    /// If `text` begins with the line that was at the place `nth`: its length, its code and its
    /// mark.
    #[inline]
    pub(super) fn recall(&self, nth: usize, text: &[u8], changes: u64) -> Option<Known<'_>> {
        let line = self.lines.get(nth)?;
        let len = usize::from(line.text_len);
        let is_same = len > 0 && line.changes == changes && text.starts_with(line.text.get(..len)?);
        is_same.then(|| Known {
            len,
            code: &line.code[..usize::from(line.code_len)],
            mark: line.mark,
        })
    }

    /// Remembers the line at the place `nth`, with its line end, if it is not too long.
    pub(super) fn keep(&mut self, nth: usize, text: &[u8], known: &Known<'_>, changes: u64) {
        let fits = text.len() <= LINE_BYTES_MAX && known.code.len() <= CODE_BYTES_MAX;
        if !fits || nth >= LINES_MAX {
            return;
        }
        if self.lines.len() <= nth {
            self.lines.resize(nth + 1, Line::EMPTY);
        }
        let line = &mut self.lines[nth];
        line.changes = changes;
        line.mark = known.mark;
        (line.text_len, line.code_len) = (text.len() as u8, known.code.len() as u8);
        line.text[..text.len()].copy_from_slice(text);
        line.code[..known.code.len()].copy_from_slice(known.code);
    }
}

/// A line that is known.
#[derive(Debug)]
pub(super) struct Known<'k> {
    /// Bytes of the line.
    pub(super) len: usize,
    pub(super) code: &'k [u8],
    /// What its writer has found out about it.
    pub(super) mark: bool,
}

/// The longest block that is remembered, and the longest text.
const BLOCK_BYTES_MAX: usize = 128;
const TEXT_BYTES_MAX: usize = 1024;

/// The last block that was received, and the text that it means.
#[derive(Debug, Default)]
pub(super) struct KnownBlock {
    block: Vec<u8>,
    text: Vec<u8>,
    means: Option<(HeadKind, HeadFacts)>,
    /// Of the decoder's table.
    changes: u64,
}

impl KnownBlock {
    /// What `block` means, if it is the last one again.
    pub(super) fn recall(
        &self,
        block: &[u8],
        kind: HeadKind,
        changes: u64,
    ) -> Option<(HeadFacts, &[u8])> {
        let (known, facts) = self.means?;
        let is_same = known == kind && self.changes == changes && self.block == block;
        is_same.then_some((facts, &self.text))
    }

    /// Remembers `block`, which has changed nothing, if it is not too long.
    pub(super) fn keep(
        &mut self,
        block: &[u8],
        text: &[u8],
        means: (HeadKind, HeadFacts),
        changes: u64,
    ) {
        if block.len() > BLOCK_BYTES_MAX || text.len() > TEXT_BYTES_MAX {
            return;
        }
        self.block.clear();
        self.block.extend_from_slice(block);
        self.text.clear();
        self.text.extend_from_slice(text);
        self.means = Some(means);
        self.changes = changes;
    }
}
