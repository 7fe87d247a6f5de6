//! Settings of a plan, given to sockets one by one.
//!
//! Invariant: what is set was asked for, and what the kernel refuses is an error that names the
//! option. Nothing else of a socket is changed.
//! Read next: `crate::plan` (`edge.rs`, `tcp.rs`: what they mean).

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::{fmt, io};

use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};

use super::sys;
use super::unix::is_unix;
use crate::plan::{BackendSocket, ListenSocket, Source, TcpSocket};

/// Linux 6.3; libc does not have it.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// An option that the kernel refused.
#[derive(Debug)]
pub struct OptionError {
    /// Its name in the manual pages.
    pub option: &'static str,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { option, error } = self;
        let advice = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "; it needs a right, CAP_NET_ADMIN mostly",
            Some(libc::ENOPROTOOPT) => "; this kernel is too old for it",
            Some(libc::ENOENT) if *option == "TCP_CONGESTION" => {
                "; `sysctl net.ipv4.tcp_available_congestion_control` shows which there are"
            }
            Some(libc::ENODEV) => "; `ip link` lists the devices",
            _ => "",
        };
        write!(f, "the kernel refuses {option}: {error}{advice}")
    }
}

impl std::error::Error for OptionError {}

impl From<OptionError> for io::Error {
    fn from(refused: OptionError) -> Self {
        refused.error
    }
}

/// Gives a socket that is to listen its settings; the backlog is `listen(2)`'s. What it accepts
/// inherits them.
///
/// # Errors
/// The first that the kernel refuses.
pub fn set_listen_options(
    socket: &impl AsRawFd,
    settings: &ListenSocket,
) -> Result<(), OptionError> {
    let fd = socket.as_raw_fd();
    let ListenSocket {
        backlog: _,
        defer_accept,
        fast_open,
        v6_only: _,   // before it is bound
        drops_all: _, // likewise
        free_bind: _,
        mode: _,
        tcp,
    } = settings;
    if let Some(time) = defer_accept {
        let seconds = time.as_secs() as libc::c_int;
        set(
            fd,
            "TCP_DEFER_ACCEPT",
            IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            seconds,
        )?;
    }
    if let Some(queue) = fast_open {
        let queue = *queue as libc::c_int;
        set(fd, "TCP_FASTOPEN", IPPROTO_TCP, libc::TCP_FASTOPEN, queue)?;
    }
    set_tcp_options(fd, tcp)
}

/// Lets a socket be bound to an address that the machine does not have (IP_FREEBIND, ip(7)), which
/// needs no right.
///
/// # Errors
/// When the kernel refuses it.
pub fn set_free_bind(socket: &impl AsRawFd) -> Result<(), OptionError> {
    // On IPv6 sockets too: both families look at the one flag.
    set(
        socket.as_raw_fd(),
        "IP_FREEBIND",
        IPPROTO_IP,
        libc::IP_FREEBIND,
        1,
    )
}

/// Tries the settings of backend connections on sockets that are not used, one of each family.
///
/// # Errors
/// The first that the kernel refuses.
pub fn try_backend_options(settings: &BackendSocket) -> Result<(), OptionError> {
    if let Some(ports) = settings.ports {
        check_ports(ports)?;
    }
    let any: [SocketAddr; 2] = [([0, 0, 0, 0], 0).into(), ([0_u16; 8], 0).into()];
    for address in any {
        // A machine may be without IPv6.
        if let Ok(fd) = sys::tcp_socket(&address) {
            let tried = set_backend_options(fd, address, settings);
            sys::close(fd);
            tried?;
        }
    }
    Ok(())
}

/// The kernel ignores a bound that is outside of the system's own range, without a word.
fn check_ports((first, last): (u16, u16)) -> Result<(), OptionError> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.unwrap_or_default();
    let bounds: Vec<u16> = range.split_whitespace().flat_map(str::parse).collect();
    match bounds[..] {
        [least, most] if first < least || last > most => {
            let reason = format!(
                "{first}-{last} is not within net.ipv4.ip_local_port_range, which is \
                 {least}-{most}"
            );
            Err(OptionError {
                option: "IP_LOCAL_PORT_RANGE",
                error: io::Error::new(io::ErrorKind::InvalidInput, reason),
            })
        }
        _ => Ok(()),
    }
}

/// How a connection is opened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ConnectFrom<'a> {
    /// The address to bind; with port 0 the kernel chooses one.
    pub(crate) source: Option<SocketAddr>,
    pub(crate) settings: Option<&'a BackendSocket>,
}

impl ConnectFrom<'_> {
    /// A socket that can be connected to `address`.
    pub(crate) fn open(&self, address: SocketAddr) -> io::Result<RawFd> {
        let fd = sys::tcp_socket(&address)?;
        self.prepare(fd, address).inspect_err(|_| sys::close(fd))?;
        Ok(fd)
    }

    fn prepare(&self, fd: RawFd, address: SocketAddr) -> io::Result<()> {
        if is_unix(address.ip()) {
            return Ok(()); // has none of these options
        }
        if let Some(settings) = self.settings {
            sys::set_quick_ack(fd, false);
            set_backend_options(fd, address, settings)?;
        }
        match self.source {
            Some(source) => sys::bind_source(fd, source),
            None => Ok(()),
        }
    }
}

fn set_backend_options(
    fd: RawFd,
    address: SocketAddr,
    settings: &BackendSocket,
) -> Result<(), OptionError> {
    let BackendSocket {
        tcp,
        source,
        ports,
        device,
        mark,
    } = settings;
    if *source == Source::Client {
        let (level, option) = if address.is_ipv4() {
            (IPPROTO_IP, libc::IP_TRANSPARENT)
        } else {
            (IPPROTO_IPV6, libc::IPV6_TRANSPARENT)
        };
        set(fd, "IP_TRANSPARENT", level, option, 1)?;
    }
    if let Some((first, last)) = *ports {
        let range = i32::from(last).wrapping_shl(16) | i32::from(first);
        set(
            fd,
            "IP_LOCAL_PORT_RANGE",
            IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            range,
        )?;
    }
    if let Some(device) = device {
        let device = device.as_bytes();
        set_bytes(
            fd,
            "SO_BINDTODEVICE",
            SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            device,
        )?;
    }
    if let Some(mark) = *mark {
        set(
            fd,
            "SO_MARK",
            SOL_SOCKET,
            libc::SO_MARK,
            mark as libc::c_int,
        )?;
    }
    set_tcp_options(fd, tcp)
}

fn set_tcp_options(fd: RawFd, settings: &TcpSocket) -> Result<(), OptionError> {
    let TcpSocket {
        keep_alive,
        user_timeout,
        congestion,
    } = settings;
    if let Some(keep_alive) = keep_alive {
        let seconds = |time: std::time::Duration| time.as_secs() as libc::c_int;
        let (idle, interval) = (seconds(keep_alive.idle), seconds(keep_alive.interval));
        let count = keep_alive.count.into();
        set(fd, "SO_KEEPALIVE", SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
        set(fd, "TCP_KEEPIDLE", IPPROTO_TCP, libc::TCP_KEEPIDLE, idle)?;
        set(
            fd,
            "TCP_KEEPINTVL",
            IPPROTO_TCP,
            libc::TCP_KEEPINTVL,
            interval,
        )?;
        set(fd, "TCP_KEEPCNT", IPPROTO_TCP, libc::TCP_KEEPCNT, count)?;
    }
    if let Some(timeout) = user_timeout {
        let millis = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
        set(
            fd,
            "TCP_USER_TIMEOUT",
            IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            millis,
        )?;
    }
    if let Some(name) = congestion {
        let name = name.as_bytes();
        set_bytes(
            fd,
            "TCP_CONGESTION",
            IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name,
        )?;
    }
    Ok(())
}

fn set(
    fd: RawFd,
    option: &'static str,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<(), OptionError> {
    sys::set_option(fd, level, name, value).map_err(|error| OptionError { option, error })
}

fn set_bytes(
    fd: RawFd,
    option: &'static str,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> Result<(), OptionError> {
    sys::set_option_bytes(fd, level, name, value).map_err(|error| OptionError { option, error })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::KeepAlive;
    use crate::rt::{Config, EngineKind, ListenOptions, Runtime, TcpListener, TcpStream};

    fn tcp(congestion: &str) -> TcpSocket {
        TcpSocket {
            keep_alive: Some(KeepAlive {
                idle: Duration::from_secs(77),
                interval: Duration::from_secs(7),
                count: 5,
            }),
            user_timeout: Some(Duration::from_millis(12_345)),
            congestion: Some(congestion.into()),
        }
    }

    fn has_tcp_options(fd: RawFd) {
        for (level, name, expected) in [
            (SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (IPPROTO_TCP, libc::TCP_KEEPIDLE, 77),
            (IPPROTO_TCP, libc::TCP_KEEPINTVL, 7),
            (IPPROTO_TCP, libc::TCP_KEEPCNT, 5),
            (IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 12_345),
        ] {
            assert_eq!(sys::option(fd, level, name).unwrap(), expected, "{name}");
        }
        let name = sys::option(fd, IPPROTO_TCP, libc::TCP_CONGESTION).unwrap();
        assert_eq!(&name.to_ne_bytes(), b"reno");
    }

    fn on_each_engine(test: impl AsyncFn()) {
        for engine in [EngineKind::Epoll, EngineKind::Uring] {
            let config = Config {
                engine,
                ..Config::default()
            };
            match Runtime::new(&config) {
                Ok(mut runtime) => runtime.block_on(test()),
                Err(error) => eprintln!("skipped on {}: {error}", engine.name()),
            }
        }
    }

    #[test]
    fn a_listener_has_its_settings_and_what_it_accepts_inherits_them() {
        on_each_engine(async || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let settings = ListenSocket {
                defer_accept: Some(Duration::from_secs(3)),
                fast_open: Some(16),
                tcp: tcp("reno"),
                ..ListenSocket::default()
            };
            set_listen_options(&listener, &settings).unwrap();
            let fd = listener.as_raw_fd();
            let option = |name| sys::option(fd, IPPROTO_TCP, name).unwrap();
            // The kernel counts retransmissions, and rounds to what it really waits.
            assert!((3..=7).contains(&option(libc::TCP_DEFER_ACCEPT)));
            assert_eq!(option(libc::TCP_FASTOPEN), 16);
            has_tcp_options(fd);
            let address = listener.local_addr().unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            let client = TcpStream::connect(address).await.unwrap();
            client
                .send(crate::rt::Chunk::from_static(b"x"))
                .await
                .unwrap();
            let accepted = listener.accept().await.unwrap();
            has_tcp_options(accepted.fd());
        });
    }

    #[test]
    fn a_connection_has_its_settings() {
        on_each_engine(async || {
            let any = "127.0.0.1:0".parse().unwrap();
            let listener = TcpListener::bind(any, &ListenOptions::default()).unwrap();
            let address = listener.local_addr().unwrap();
            let settings = BackendSocket {
                tcp: tcp("reno"),
                ports: Some((40_001, 40_100)),
                device: Some("lo".into()),
                ..BackendSocket::default()
            };
            if let Err(refused) = try_backend_options(&settings) {
                return assert_eq!(refused.error.raw_os_error(), Some(libc::ENOPROTOOPT));
            }
            let source = "127.0.0.5:0".parse().unwrap();
            let client = TcpStream::connect_with(Some(source), &settings, address);
            let client = client.await.unwrap();
            has_tcp_options(client.fd());
            let own = client.local_addr().unwrap();
            assert_eq!(own.ip(), source.ip());
            assert!((40_001..=40_100).contains(&own.port()), "{own}");
        });
    }

    #[test]
    fn rights_that_are_missing_are_named_or_the_mark_is_set() {
        let settings = BackendSocket {
            mark: Some(7),
            ..BackendSocket::default()
        };
        let address = "127.0.0.1:1".parse().unwrap();
        let from = ConnectFrom {
            source: None,
            settings: Some(&settings),
        };
        match from.open(address) {
            Ok(fd) => {
                assert_eq!(sys::option(fd, SOL_SOCKET, libc::SO_MARK).unwrap(), 7);
                sys::close(fd);
            }
            Err(_) => {
                let refused = try_backend_options(&settings).unwrap_err().to_string();
                assert!(refused.contains("SO_MARK") && refused.contains("CAP_NET_ADMIN"));
            }
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_named() {
        let settings = BackendSocket {
            tcp: tcp("no-such"),
            ..BackendSocket::default()
        };
        let refused = try_backend_options(&settings).unwrap_err().to_string();
        assert!(refused.contains("TCP_CONGESTION"), "{refused}");
        assert!(refused.contains("sysctl"), "{refused}");
        let settings = BackendSocket {
            ports: Some((1, 2)),
            ..BackendSocket::default()
        };
        let refused = try_backend_options(&settings).unwrap_err().to_string();
        assert!(
            refused.contains("IP_LOCAL_PORT_RANGE: 1-2 is not"),
            "{refused}"
        );
        let settings = BackendSocket {
            device: Some("no-such".into()),
            ..BackendSocket::default()
        };
        let refused = try_backend_options(&settings).unwrap_err().to_string();
        assert!(refused.contains("SO_BINDTODEVICE"), "{refused}");
    }
}
