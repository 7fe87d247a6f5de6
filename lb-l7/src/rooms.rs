//! Memory in which requests are served, used again and again: an idle connection has none of it.
//!
//! Serving a request takes a future of over a kilobyte, waiting for one a fraction of that. As one
//! future, every idle connection would hold the larger; as a box a request, every request would
//! allocate. So there are as many rooms as there are requests served at once.
//! Invariant: a vacant room holds no future, and so no connection.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::connection::{Connection, End, First, Served};
use crate::worker::HttpWorker;

type Waited = Result<First, End>;

/// The vacant rooms of one worker, the one used last on top.
#[derive(Default)]
pub(crate) struct Rooms {
    vacant: RefCell<Vec<Pin<Box<dyn Room>>>>,
}

impl Rooms {
    /// Vacant rooms that are kept: about a megabyte.
    const KEPT_MAX: usize = 1024;

    /// Serves what was `waited` for; the future yields the connection when it goes on.
    pub(crate) fn serve(connection: Connection, waited: Waited) -> Guest {
        let http = Rc::clone(&connection.http);
        let vacant = http.rooms.vacant.borrow_mut().pop();
        let mut room = vacant.unwrap_or_else(|| Box::pin(TypedRoom::new(Connection::serve_one)));
        room.as_mut().enter(connection, waited);
        Guest {
            room: Some(room),
            http,
        }
    }

    fn keep(&self, room: Pin<Box<dyn Room>>) {
        let mut vacant = self.vacant.borrow_mut();
        if vacant.len() < Self::KEPT_MAX {
            vacant.push(room);
        }
    }
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms")
            .field("vacant", &self.vacant.borrow().len())
            .finish()
    }
}

/// A request being served in a room, which becomes vacant when this is dropped.
pub(crate) struct Guest {
    room: Option<Pin<Box<dyn Room>>>,
    http: Rc<HttpWorker>,
}

impl Future for Guest {
    type Output = Served;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.room {
            Some(room) => room.as_mut().poll_guest(cx),
            None => Poll::Ready(Served::Over), // not reached: the room leaves with the guest
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(mut room) = self.room.take() {
            room.as_mut().leave();
            self.http.rooms.keep(room);
        }
    }
}

trait Room {
    fn enter(self: Pin<&mut Self>, connection: Connection, waited: Waited);
    fn poll_guest(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Served>;
    fn leave(self: Pin<&mut Self>);
}

pin_project! {
    /// A room for the futures that `make` makes, whose type has no name.
    struct TypedRoom<M, F> {
        make: M,
        #[pin]
        guest: Option<F>,
    }
}

impl<M, F> TypedRoom<M, F> {
    const fn new(make: M) -> Self {
        Self { make, guest: None }
    }
}

impl<M, F> Room for TypedRoom<M, F>
where
    M: Fn(Connection, Waited) -> F,
    F: Future<Output = Served>,
{
    fn enter(self: Pin<&mut Self>, connection: Connection, waited: Waited) {
        let mut this = self.project();
        this.guest.set(Some((this.make)(connection, waited)));
    }

    fn poll_guest(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Served> {
        self.project()
            .guest
            .as_pin_mut()
            .map_or(Poll::Ready(Served::Over), |guest| guest.poll(cx))
    }

    fn leave(self: Pin<&mut Self>) {
        self.project().guest.set(None);
    }
}
