//! Objects from files: what `kubectl apply -R -f DIR` would read.
//!
//! Invariant: what a file or an object does wrong concerns itself only, is reported with file,
//! document, line and field, and leaves the version before it in force.
//! Read next: `folder.rs` (a folder and its changes), `read.rs` (one file).

mod document;
mod folder;
mod locate;
mod old;
mod read;
mod report;
mod walk;

pub use document::Position;
pub use folder::{Change, FILE_BYTES_MAX, FILES_MAX, Folder};
pub use locate::locate;
pub use read::{Contents, Found, OBJECT_BYTES_MAX, PassedOver, read};
pub use report::Report;
