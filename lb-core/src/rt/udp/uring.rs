//! Datagrams on the io_uring engine: multishot receives of messages into a ring of lent buffers.
//!
//! Invariant: as the engine's: a slot counts its operation until the last completion. A receive
//! that ends is begun again, by the next who waits or at once if it did not fail.
//! Read next: `epoll.rs` (the way without multishot), `rt/ring.rs`.
#![allow(unsafe_code, reason = "a message header that the kernel reads")]

use std::mem;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use super::buffer::{Wide, pool};
use super::epoll;
use super::socket::Slot;
use super::sys;
use super::wire::{CONTROL_MAX, NAME_MAX};
use crate::rt::ring::{BufferRing, Lender};
use crate::rt::socket::{Key, Slots};
use crate::rt::sys as system;
use crate::rt::uring::{NOBODY, Operation, Uring};

/// Buffers lent at most.
const ENTRIES: u16 = 512;
/// `struct io_uring_recvmsg_out`: lengths of address, control messages and payload, and flags.
const PREFIX: usize = 16;
/// Room for the one control message of a connected socket: a size.
const CONTROL_CONNECTED: usize = 24;

/// What all of a ring's receives of messages share.
pub(crate) struct Receiver {
    buffers: BufferRing<Wide>,
    /// How much room addresses and control messages get: of bound, and of connected sockets.
    /// Boxed, as the kernel reads them where they are.
    layouts: Box<[libc::msghdr; 2]>,
}

impl Receiver {
    fn layout(name: usize, control: usize) -> libc::msghdr {
        // SAFETY: all zeroes is a valid, empty msghdr.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_namelen = name as u32;
        header.msg_controllen = control as _;
        header
    }

    fn room(slot: &Slot) -> (usize, usize) {
        if slot.connected.is_some() {
            (0, CONTROL_CONNECTED)
        } else {
            (NAME_MAX, CONTROL_MAX)
        }
    }
}

impl Uring {
    fn receiver(&mut self) -> Option<&mut Receiver> {
        if self.datagrams.is_none() {
            let buffers = BufferRing::register(&self.submitter, ENTRIES).ok()?;
            let bound = Receiver::layout(NAME_MAX, CONTROL_MAX);
            let connected = Receiver::layout(0, CONTROL_CONNECTED);
            self.datagrams = Some(Receiver {
                buffers,
                layouts: Box::new([bound, connected]),
            });
            self.refill_datagrams();
        }
        self.datagrams.as_mut()
    }

    pub(super) fn want_datagrams(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.udp.slots.get(key);
        if !slot.armed && !slot.closing && !slot.starved {
            self.arm_datagrams(slot, key);
        }
        if slot.polls {
            epoll::receive(&mut slots.udp, key);
        }
    }

    fn arm_datagrams(&mut self, slot: &mut Slot, key: Key) {
        let is_connected = slot.connected.is_some();
        let receiver = if slot.polls { None } else { self.receiver() };
        let entry = if let Some(receiver) = receiver {
            let layout = &raw const receiver.layouts[usize::from(is_connected)];
            opcode::RecvMsgMulti::new(Fd(slot.fd), layout, Wide::GROUP).build()
        } else {
            slot.polls = true;
            opcode::PollAdd::new(Fd(slot.fd), libc::POLLIN as u32)
                .multi(true)
                .build()
        };
        slot.armed = true;
        slot.operations += 1;
        self.push(&entry.user_data(Operation::Datagrams.name(key)));
    }

    pub(crate) fn on_datagrams(&mut self, slots: &mut Slots, key: Key, result: i32, flags: u32) {
        let lent = cqueue::buffer_select(flags);
        if lent.is_some()
            && let Some(receiver) = &mut self.datagrams
        {
            receiver.buffers.on_taken();
        }
        let last = !cqueue::more(flags);
        let udp = &mut slots.udp.slots;
        let slot = udp.get(key);
        if last {
            slot.operations -= 1;
            slot.armed = false;
        }
        match (result, lent) {
            (0.., Some(number)) => udp.overflows += u64::from(!receive(slot, number)),
            (_, Some(number)) => pool().release(number),
            (1.., None) => slot.on_readable(), // a poll
            _ => {}
        }
        let slot = udp.get(key);
        if slot.closing {
            return udp.vacate_if_done(key);
        }
        let again = match -result {
            libc::ENOBUFS => self.lend_more(),
            libc::EINVAL | libc::EOPNOTSUPP if !slot.polls => {
                slot.polls = true;
                slot.on_readable();
                true
            }
            libc::ECANCELED => false,
            libc::EINTR | libc::EAGAIN => true,
            errno @ 1.. => {
                slot.on_error(errno);
                return; // who is told of it begins again
            }
            _ => true,
        };
        if !again {
            udp.starve(key);
        } else if last {
            self.arm_datagrams(udp.get(key), key);
        }
    }

    /// A receive found no buffer; true if there are some now.
    fn lend_more(&mut self) -> bool {
        self.datagrams.as_mut().is_some_and(|receiver| {
            receiver.buffers.grow();
            receiver.buffers.refill() > 0
        })
    }

    pub(super) fn refill_datagrams(&mut self) {
        if let Some(receiver) = &mut self.datagrams {
            receiver.buffers.refill();
        }
    }

    pub(super) fn lent_for_datagrams(&self) -> usize {
        let receiver = self.datagrams.as_ref();
        receiver.map_or(0, |receiver| receiver.buffers.lent())
    }

    pub(super) fn close_datagrams(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.udp.slots.get(key);
        if slot.armed {
            self.cancel(Operation::Datagrams, key);
        }
        if slot.connected.is_some() {
            let entry = opcode::Close::new(Fd(slot.fd))
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS);
            self.push(&entry.user_data(Operation::Forget.name(NOBODY)));
        } else {
            // At once, not with the next turn: from here on others get what comes.
            self.submit_now();
            system::close(slot.fd);
        }
        slots.udp.slots.vacate_if_done(key);
    }

    /// Takes the lent buffers back from the kernel; for the engine's end.
    pub(crate) fn end_datagrams(&mut self) {
        if let Some(receiver) = &mut self.datagrams {
            receiver.buffers.unregister(&self.submitter);
        }
    }
}

/// Reads what a multishot receive has put in front of the payload. False if it is dropped.
fn receive(slot: &mut Slot, number: u16) -> bool {
    let (name_room, control_room) = Receiver::room(slot);
    let bytes = pool().room(number);
    let length = |at: usize| {
        let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        u32::from_ne_bytes(bytes) as usize
    };
    let name = &bytes[PREFIX..][..length(0).min(name_room)];
    let control = &bytes[PREFIX + name_room..][..length(4).min(control_room)];
    let start = PREFIX + name_room + control_room;
    let arrival = sys::arrival(start, length(8), name, control, slot);
    slot.on_received(number, arrival)
}

#[cfg(test)]
mod tests {
    use crate::rt::engine::Engine;
    use crate::rt::{self, Config, Datagrams, EngineKind, Runtime, UdpOptions, UdpSocket, context};

    /// Has the sockets go the way that they go where the kernel has no multishot receive.
    fn forget_multishot(socket: &UdpSocket) {
        context::with(|core| {
            let io = &mut *core.io.borrow_mut();
            assert!(matches!(io.engine, Engine::Uring(_)));
            io.slots.udp.slots.get(socket.key).polls = true;
        });
    }

    #[test]
    fn without_multishot_receives_sockets_are_polled() {
        let config = Config {
            engine: EngineKind::Uring,
            ..Config::default()
        };
        let mut runtime = match Runtime::new(&config) {
            Ok(runtime) => runtime,
            Err(error) => return eprintln!("skipped: io_uring is not available: {error}"),
        };
        runtime.block_on(async {
            let any = "127.0.0.1:0".parse().expect("an address");
            let server = UdpSocket::bind(any, &UdpOptions::default()).expect("bind");
            let client = UdpSocket::connect(server.local_addr()).expect("connect");
            forget_multishot(&server);
            forget_multishot(&client);
            for round in 1..=20_u8 {
                for _ in 0..round {
                    client.send(Datagrams::copy_from(&[round; 100]));
                }
                let mut count = 0;
                while count < usize::from(round) {
                    let received = server.recv().await.expect("datagrams");
                    count += received.datagrams.count();
                    server.send_to(received.datagrams, received.peer);
                }
                let mut count = 0;
                while count < usize::from(round) {
                    let received = client.recv().await.expect("datagrams");
                    assert!(received.datagrams.iter().all(|it| it == [round; 100]));
                    count += received.datagrams.count();
                }
            }
            drop(server);
            rt::yield_now().await;
            client.send(Datagrams::copy_from(b"anybody?"));
            client.recv().await.expect_err("nobody");
        });
    }
}
