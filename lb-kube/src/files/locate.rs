//! Where the fields are that reports are about: found when there is something to report, so that
//! nobody pays for positions that nobody asks for.
//!
//! Invariant: a report whose field is not found keeps the position that it has, its object's.
//! Read next: `document.rs` (which knows positions).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::document::{Data, Document, Node, parse};
use super::folder::read_text;
use super::report::Report;
use crate::problem::Severity;

/// Most files that are read for it at a time.
const FILES_MAX: usize = 64;

/// Gives reports the position of their field, by reading their files again.
pub fn locate(reports: &mut [Report]) {
    let mut files: HashMap<Arc<str>, Vec<Document>> = HashMap::new();
    for report in reports {
        let (Some(file), Some(object)) = (&report.file, report.position) else {
            continue;
        };
        let is_minor = report.severity == Severity::Note;
        if report.field.is_empty() || object.column != 1 || is_minor {
            continue;
        }
        if !files.contains_key(file) {
            if files.len() >= FILES_MAX {
                return;
            }
            let text = read_text(Path::new(&**file)).unwrap_or_default();
            files.insert(Arc::clone(file), parse(&text).unwrap_or_default());
        }
        let index = (report.document as usize).checked_sub(1);
        let document = index.and_then(|index| files[file].get(index));
        let node = document.and_then(|document| at_line(&document.root, object.line));
        if let Some(node) = node {
            report.position = Some(node.find(&report.field));
        }
    }
}

/// The document itself, or the item of a List that begins there.
fn at_line(root: &Node, line: u32) -> Option<&Node> {
    if root.position.line == line {
        return Some(root);
    }
    match &root.get("items")?.data {
        Data::Sequence(items) => items.iter().find_map(|item| at_line(item, line)),
        Data::Mapping(_) | Data::Scalar(_) => None,
    }
}
