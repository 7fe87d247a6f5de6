//! Signals become events of the control loop.
//!
//! Invariant: handlers are installed before the first listener is bound, so no signal finds its
//! default action while there is something to lose.
//! Read next: `mod.rs`.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

use super::Event;

/// Sends an event for each signal from now on.
pub(super) fn forward(sender: &UnboundedSender<Event>) -> io::Result<()> {
    let handled: [(SignalKind, fn() -> Event); 3] = [
        (SignalKind::terminate(), || Event::End("SIGTERM")),
        (SignalKind::interrupt(), || Event::End("SIGINT")),
        (SignalKind::hangup(), || Event::Reload("SIGHUP")),
    ];
    for (kind, event) in handled {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        tokio::task::spawn_local(async move {
            while signals.recv().await.is_some() && sender.send(event()).is_ok() {}
        });
    }
    Ok(())
}
