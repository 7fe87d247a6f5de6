//! What reaches a runtime from other threads: work to spawn, and wakers used elsewhere.
//!
//! Invariant: a message is in the channel before the eventfd is signalled, and the runtime clears
//! the signal before it empties the channel, so none waits unseen.

use std::fmt;
use std::future::Future;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, mem};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::{context, spawn, sys};

/// Reaches a runtime from another thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    mailbox: Arc<Mailbox>,
}

impl Handle {
    /// Runs `make` on the runtime's thread and spawns the future that it returns. False, and
    /// nothing is run, when the runtime has ended.
    pub fn spawn<M, F>(&self, make: M) -> bool
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        self.mailbox.send(Message::Run(Box::new(|| {
            spawn(make());
        })))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

enum Message {
    Run(Box<dyn FnOnce() + Send>),
    Wake { index: u32, generation: u16 },
}

struct Mailbox {
    sender: Sender<Message>,
    event: OwnedFd,
    signalled: AtomicBool,
    open: AtomicBool,
}

impl Mailbox {
    fn send(&self, message: Message) -> bool {
        if !self.open.load(Ordering::Acquire) || self.sender.send(message).is_err() {
            return false;
        }
        if !self.signalled.swap(true, Ordering::SeqCst) {
            sys::eventfd_signal(self.event.as_raw_fd());
        }
        true
    }
}

/// The runtime's end.
pub(crate) struct Inbox {
    mailbox: Arc<Mailbox>,
    receiver: Receiver<Message>,
    runtime: u16,
}

/// Mailboxes by runtime number; a free number is `None`.
static REGISTRY: Mutex<Vec<Option<Arc<Mailbox>>>> = Mutex::new(Vec::new());

impl Inbox {
    #[allow(unsafe_code, reason = "an eventfd has no owner until it is given one")]
    pub(crate) fn new() -> io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        // SAFETY: the descriptor is new and has no other owner.
        let event = unsafe { OwnedFd::from_raw_fd(sys::eventfd()?) };
        let mailbox = Arc::new(Mailbox {
            sender,
            event,
            signalled: AtomicBool::new(false),
            open: AtomicBool::new(true),
        });
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        let number = registry
            .iter()
            .position(Option::is_none)
            .unwrap_or(registry.len());
        let runtime = u16::try_from(number)
            .map_err(|_| io::Error::other("more than 65,536 runtimes in one process"))?;
        if number == registry.len() {
            registry.push(None);
        }
        registry[number] = Some(Arc::clone(&mailbox));
        Ok(Self {
            mailbox,
            receiver,
            runtime,
        })
    }

    pub(crate) const fn runtime(&self) -> u16 {
        self.runtime
    }

    pub(crate) fn event_fd(&self) -> i32 {
        self.mailbox.event.as_raw_fd()
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle {
            mailbox: Arc::clone(&self.mailbox),
        }
    }

    /// Called when the eventfd was signalled: takes everything that has arrived.
    pub(crate) fn drain(&self) {
        sys::eventfd_clear(self.event_fd());
        self.mailbox.signalled.store(false, Ordering::SeqCst);
        self.take_all();
    }

    fn take_all(&self) {
        loop {
            match self.receiver.try_recv() {
                Ok(Message::Run(run)) => run(),
                Ok(Message::Wake { index, generation }) => {
                    context::with(|core| core.tasks.wake(index, generation));
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    /// No message is taken from here on; those that wait are dropped.
    pub(crate) fn close(&self) {
        self.mailbox.open.store(false, Ordering::Release);
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        let mailbox = registry.get_mut(usize::from(self.runtime)).map(mem::take);
        drop(registry);
        drop(mailbox);
        while self.receiver.try_recv().is_ok() {}
    }
}

/// Wakes a task of another thread's runtime; of none, if that has ended.
pub(crate) fn wake(runtime: u16, index: u32, generation: u16) {
    let registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Some(mailbox)) = registry.get(usize::from(runtime)) {
        mailbox.send(Message::Wake { index, generation });
    }
}
