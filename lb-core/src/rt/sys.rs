//! System calls that the standard library does not offer, each as a safe function.
//!
//! Invariant: every function takes descriptors that the caller owns and returns `io::Result`.
//! Read next: `raw_addr.rs` (addresses as the kernel has them).
#![allow(unsafe_code, reason = "system calls")]

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::raw_addr::RawAddr;
use super::unix::is_unix;

/// Settings of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// SO_REUSEPORT, so that each worker has a queue of its own.
    pub reuse_port: bool,
    /// Connections that may wait to be accepted; capped by `net.core.somaxconn`.
    pub backlog: u32,
    /// IPV6_V6ONLY: false lets `[::]` take IPv4 clients too.
    pub v6_only: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            reuse_port: true,
            backlog: 4096,
            v6_only: false,
        }
    }
}

/// Turns -1 into `errno`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

pub(crate) fn monotonic_nanos() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for the write; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Pins the calling thread to one core.
pub(crate) fn pin_thread(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all zeroes is a valid, empty cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is valid for the read; 0 names the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
}

/// Asks the scheduler for turns of 0.5 ms for the calling thread instead of one of some milliseconds (EEVDF's
/// slice, sched_setattr(2), Linux 6.12): who shares a CPU with it waits less, and so does the thread
/// itself once those others ask for the same. Priority and share of the CPU stay as they are.
///
/// # Errors
/// When it may not (seccomp); an older kernel takes no notice.
pub fn take_short_turns() -> io::Result<()> {
    const TURN_NS: u64 = 500_000;
    // SAFETY: all zeroes is a valid sched_attr.
    let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
    let size = size_of_val(&attributes) as libc::c_uint;
    // SAFETY: `attributes` is valid for a write of `size` bytes; 0 names the calling thread.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    check(read as libc::c_int)?;
    let is_fair = attributes.sched_policy == libc::SCHED_OTHER as u32
        || attributes.sched_policy == libc::SCHED_BATCH as u32;
    if !is_fair {
        return Ok(()); // an operator's choice, in which the field means something else
    }
    attributes.sched_flags = 0;
    attributes.sched_runtime = TURN_NS;
    // SAFETY: as above; the kernel reads as many bytes as `attributes.size` says.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    check(set as libc::c_int).map(drop)
}

/// A non-blocking TCP socket with TCP_NODELAY, or a Unix socket.
pub(crate) fn tcp_socket(address: &SocketAddr) -> io::Result<RawFd> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) if is_unix(address.ip()) => libc::AF_UNIX,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    if family == libc::AF_UNIX {
        return Ok(fd);
    }
    set_no_delay(fd).inspect_err(|_| close(fd))?;
    Ok(fd)
}

/// Small sends leave at once (TCP_NODELAY); what a listener accepts inherits it.
pub(crate) fn set_no_delay(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Whether acknowledgements leave at once, or with the next bytes that are sent (TCP_QUICKACK). It
/// saves a packet; a kernel that refuses it sends that.
pub(crate) fn set_quick_ack(fd: RawFd, at_once: bool) {
    let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, at_once.into());
}

/// A listening TCP socket. Accepted connections inherit TCP_NODELAY.
pub(crate) fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<RawFd> {
    let fd = tcp_socket(&address)?;
    listen_on(fd, address, options).inspect_err(|_| close(fd))?;
    Ok(fd)
}

/// A socket that listens at the Unix socket address `address`; a file gets `mode` before anyone can
/// connect.
pub(super) fn listen_unix(
    address: SocketAddr,
    backlog: u32,
    file: Option<(&Path, u32)>,
) -> io::Result<OwnedFd> {
    let fd = tcp_socket(&address)?;
    // SAFETY: open, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    bind(fd, address)?;
    if let Some((path, mode)) = file {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, permissions)?;
    }
    let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, backlog) })?;
    Ok(socket)
}

fn listen_on(fd: RawFd, address: SocketAddr, options: &ListenOptions) -> io::Result<()> {
    if is_unix(address.ip()) {
        bind(fd, address)?;
        let backlog = libc::c_int::try_from(options.backlog).unwrap_or(libc::c_int::MAX);
        // SAFETY: no pointers.
        return check(unsafe { libc::listen(fd, backlog) }).map(drop);
    }
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if options.reuse_port {
        set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if address.is_ipv6() {
        set_option(
            fd,
            libc::IPPROTO_IPV6,
            libc::IPV6_V6ONLY,
            options.v6_only.into(),
        )?;
    }
    bind(fd, address)?;
    let backlog = libc::c_int::try_from(options.backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, backlog) }).map(drop)
}

/// Binds with IP_BIND_ADDRESS_NO_PORT where the port is 0, so that source ports are shared.
pub(crate) fn bind_source(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    }
    bind(fd, address)
}

pub(crate) fn bind(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let raw = RawAddr::new(address);
    // SAFETY: `raw` outlives the call and holds `len` valid bytes.
    check(unsafe { libc::bind(fd, raw.as_ptr(), raw.len) }).map(drop)
}

pub(crate) fn set_option(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` is valid for `size` bytes.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size) }).map(drop)
}

/// Sets an option whose value is no number: a name.
pub(crate) fn set_option_bytes(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let size = value.len() as libc::socklen_t;
    // SAFETY: `value` is valid for `size` bytes.
    check(unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), size) }).map(drop)
}

/// Takes the socket's pending error (SO_ERROR), 0 if there is none.
pub(crate) fn take_error(fd: RawFd) -> i32 {
    option(fd, libc::SOL_SOCKET, libc::SO_ERROR).unwrap_or(libc::EBADF)
}

/// The value of an option that is a number.
pub(crate) fn option(fd: RawFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    let value_ptr = (&raw mut value).cast();
    // SAFETY: `value` and `size` are valid for the write.
    check(unsafe { libc::getsockopt(fd, level, name, value_ptr, &raw mut size) })?;
    Ok(value)
}

/// Makes the next close send a reset.
pub(crate) fn set_linger_zero(fd: RawFd) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let size = size_of_val(&linger) as libc::socklen_t;
    let linger_ptr = (&raw const linger).cast();
    // SAFETY: `linger` is valid for `size` bytes. A failure only means an ordinary close.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, linger_ptr, size) };
}

pub(crate) fn shutdown_write(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd, libc::SHUT_WR) }).map(drop)
}

pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller owns `fd` and uses it no more. Errors of close leave nothing to do.
    unsafe { libc::close(fd) };
}

pub(crate) fn peer_addr(fd: RawFd) -> io::Result<SocketAddr> {
    address_by(fd, libc::getpeername)
}

pub(crate) fn local_addr(fd: RawFd) -> io::Result<SocketAddr> {
    address_by(fd, libc::getsockname)
}

type AddressCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn address_by(fd: RawFd, call: AddressCall) -> io::Result<SocketAddr> {
    let mut raw = RawAddr::empty();
    // SAFETY: storage and length are valid for the writes.
    check(unsafe { call(fd, (&raw mut raw.storage).cast(), &raw mut raw.len) })?;
    raw.decode()
}

/// Begins a non-blocking connect; `Ok(true)` if it is established already.
pub(crate) fn connect(fd: RawFd, address: SocketAddr) -> io::Result<bool> {
    let raw = RawAddr::new(address);
    // SAFETY: `raw` outlives the call and holds `len` valid bytes.
    match check(unsafe { libc::connect(fd, raw.as_ptr(), raw.len) }) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
        // The queue of a Unix socket is full: the peer does not accept.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_unix(address.ip()) => {
            Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
        }
        Err(error) => Err(error),
    }
}

/// The next waiting connection, non-blocking.
pub(crate) fn accept(fd: RawFd) -> io::Result<RawFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null address pointers are allowed.
    check(unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags) })
}

/// Receives into `room` without waiting.
pub(crate) fn recv(fd: RawFd, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `room` is valid for the write.
    let count = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// What `recv` would say, without taking anything: bytes wait, the end, or nothing yet.
pub(crate) fn peek_ready(fd: RawFd) -> bool {
    let mut byte = [0u8; 1];
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    // SAFETY: `byte` is valid for the write.
    let count = unsafe { libc::recv(fd, byte.as_mut_ptr().cast(), 1, flags) };
    count >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

/// Sends one or two slices without waiting.
pub(crate) fn send(fd: RawFd, first: &[u8], second: &[u8], more: bool) -> io::Result<usize> {
    let mut flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    if more {
        flags |= libc::MSG_MORE;
    }
    let count = if second.is_empty() {
        // SAFETY: `first` is valid for the read.
        unsafe { libc::send(fd, first.as_ptr().cast(), first.len(), flags) }
    } else {
        let mut parts = [io_slice(first), io_slice(second)];
        let message = message_of(&mut parts);
        // SAFETY: `message` points to `parts`, both outlive the call.
        unsafe { libc::sendmsg(fd, &raw const message, flags) }
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

pub(crate) const fn io_slice(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

pub(crate) fn message_of(parts: &mut [libc::iovec; 2]) -> libc::msghdr {
    // SAFETY: all zeroes is a valid, empty msghdr.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    message
}

/// A non-blocking eventfd.
pub(crate) fn eventfd() -> io::Result<RawFd> {
    // SAFETY: no pointers.
    check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })
}

pub(crate) fn eventfd_signal(fd: RawFd) {
    let one = 1u64;
    // SAFETY: eight valid bytes. EAGAIN means that it is signalled already.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

pub(crate) fn eventfd_clear(fd: RawFd) {
    let mut count = 0u64;
    // SAFETY: eight bytes valid for the write. EAGAIN means that nothing was signalled.
    unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
}

pub(crate) fn epoll_create() -> io::Result<RawFd> {
    // SAFETY: no pointers.
    check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

pub(crate) fn epoll_add(epoll: RawFd, fd: RawFd, events: i32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: events as u32,
        u64: data,
    };
    // SAFETY: `event` is valid for the read.
    check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
}

/// Takes a descriptor out of an epoll set.
pub(crate) fn epoll_remove(epoll: RawFd, fd: RawFd) -> io::Result<()> {
    let nothing = std::ptr::null_mut();
    // SAFETY: no argument is passed.
    check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, nothing) }).map(drop)
}

/// Waits for events, for ever without `timeout_ns`. Nanosecond deadlines from Linux 5.11 on,
/// rounded up to milliseconds before.
pub(crate) fn epoll_wait(
    epoll: RawFd,
    events: &mut [libc::epoll_event],
    timeout_ns: Option<u64>,
) -> io::Result<usize> {
    let count = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
    let whole_ms = timeout_ns.is_none_or(|ns| ns % 1_000_000 == 0);
    let result = if whole_ms {
        let ms = timeout_ns.map_or(-1, |ns| {
            libc::c_int::try_from(ns / 1_000_000).unwrap_or(i32::MAX)
        });
        // SAFETY: `events` is valid for `count` writes.
        unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), count, ms) }
    } else {
        let ns = timeout_ns.unwrap_or(0);
        let time = libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        };
        let mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: `events` is valid for `count` writes, `time` for the read; no signal mask.
        unsafe { epoll_pwait2(epoll, events.as_mut_ptr(), count, &raw const time, mask) }
    };
    check(result).map(|count| count as usize)
}

/// `epoll_pwait2(2)` by number: older C libraries lack the wrapper.
///
/// # Safety
/// As the system call: `events` valid for `count` writes, `time` for the read.
unsafe fn epoll_pwait2(
    epoll: RawFd,
    events: *mut libc::epoll_event,
    count: libc::c_int,
    time: *const libc::timespec,
    mask: *const libc::sigset_t,
) -> libc::c_int {
    // SAFETY: passed on from the caller.
    let result =
        unsafe { libc::syscall(libc::SYS_epoll_pwait2, epoll, events, count, time, mask, 8) };
    if result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        // SAFETY: passed on from the caller.
        let time = unsafe { &*time };
        let ms = time.tv_sec * 1000 + time.tv_nsec / 1_000_000 + 1;
        // SAFETY: passed on from the caller.
        return unsafe { libc::epoll_wait(epoll, events, count, ms as libc::c_int) };
    }
    result as libc::c_int
}

/// Has the kernel give this process memory in small pages only, from now on. Many small objects
/// spread over large pages would hold a multiple of what they need: an allocator that asks for
/// transparent huge pages takes 2 MiB at a time.
///
/// # Errors
/// When the kernel was built without transparent huge pages; there is nothing to avoid then.
pub fn use_small_pages() -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) }).map(drop)
}

/// True if `fd` is readable; waits for it, for ever, if `waits`.
pub(crate) fn poll_readable(fd: RawFd, waits: bool) -> io::Result<bool> {
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `entry` is one valid pollfd.
    match check(unsafe { libc::poll(&raw mut entry, 1, if waits { -1 } else { 0 }) }) {
        Ok(count) => Ok(count > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Address space for `len` bytes; pages are taken when they are first written.
pub(crate) fn map_anonymous(len: usize) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, no address asked for.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(address.cast())
    }
}

/// Gives back what `map_anonymous` took.
///
/// # Safety
/// `address` and `len` are those of a mapping that nothing refers to any more.
pub(crate) unsafe fn unmap(address: *mut u8, len: usize) {
    // SAFETY: passed on from the caller.
    unsafe { libc::munmap(address.cast(), len) };
}
