//! Binds the sockets of listeners, for all workers, before anything else changes.
//!
//! Invariant: either every socket of a plan's new listeners is bound, or none is kept and the
//! error says which listener, why, and what to do.
//! Read next: `reload.rs` (which binds), `../worker/listeners.rs` (which accepts).

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use lb_core::plan;
use lb_core::rt::{
    OptionError, UdpOptions, is_unix, set_free_bind, set_listen_options, shown, try_backend_options,
};
use socket2::{SockFilter, SockRef};
use tokio::net::TcpSocket;

use super::unix::{self, SocketFile};
use crate::snapshot::{ListenerKey, Transport};
use crate::worker::{BoundSocket, Sockets};

/// Where listeners are bound.
pub(crate) type Bound = HashMap<ListenerKey, SocketAddr>;

/// Ports of which this process has, or is closing, sockets.
pub(crate) type OwnPorts = HashSet<(Transport, u16)>;

/// The ports of these sockets.
pub(crate) fn ports(bound: &Bound) -> impl Iterator<Item = (Transport, u16)> {
    bound
        .iter()
        .map(|(key, address)| (key.transport, address.port()))
}

/// The sockets of listeners that are new: for each worker, one of each.
pub(crate) struct NewSockets {
    pub(crate) by_worker: Vec<Sockets>,
    pub(crate) bound: Bound,
    /// Listeners that may be left out, and were.
    pub(crate) left_out: Vec<BindError>,
    pub(crate) files: SocketFiles,
}

/// Files of the listeners on Unix sockets.
pub(crate) type SocketFiles = HashMap<ListenerKey, SocketFile>;

/// The listener that could not be bound, and one line that says why and what to do.
#[derive(Debug)]
pub(crate) struct BindError {
    pub(crate) listener: String,
    pub(crate) reason: String,
}

/// Binds those of `listeners` that are not in `already`, once for each worker. One that cannot be
/// bound and is `optional` is left out; any other is an error.
pub(crate) fn bind_new<'p>(
    listeners: impl IntoIterator<Item = &'p Arc<plan::Listener>>,
    already: &Bound,
    own_ports: &OwnPorts,
    workers: usize,
    optional: &dyn Fn(&str) -> bool,
) -> Result<NewSockets, BindError> {
    let mut new = NewSockets {
        by_worker: (0..workers).map(|_| Sockets::new()).collect(),
        bound: Bound::new(),
        left_out: Vec::new(),
        files: SocketFiles::new(),
    };
    let mut ports_now = OwnPorts::new();
    for listener in listeners {
        let key = ListenerKey::of(listener);
        let sockets = match try_options(listener) {
            Err(refused) => Err(format!("listener {}: {refused}", listener.name)),
            Ok(()) if already.contains_key(&key) => continue,
            Ok(()) if is_unix(listener.address.ip()) => {
                let own = already.keys().any(|key| key.address() == listener.address);
                new.bind_unix(listener, &key, own)
                    .map(|()| Vec::new())
                    .map_err(|error| {
                        advise(&listener.name, key.transport, listener.address, &error)
                    })
            }
            Ok(()) => {
                // An address of its own goes before all addresses, on one port.
                let port = (key.transport, listener.address.port());
                let own = ports_now.contains(&port) || own_ports.contains(&port);
                let bind_each = match key.transport {
                    Transport::Tcp => bind_each,
                    Transport::Udp => bind_each_udp,
                };
                let sockets = bind_each(listener, own, workers);
                ports_now.extend(sockets.is_ok().then_some(port));
                sockets.map_err(|error| {
                    advise(&listener.name, key.transport, listener.address, &error)
                })
            }
        };
        let sockets = match sockets {
            Ok(sockets) => sockets,
            Err(reason) => {
                let listener = listener.name.clone();
                let error = BindError { listener, reason };
                if optional(&error.listener) {
                    new.left_out.push(error);
                    continue;
                }
                return Err(error);
            }
        };
        for (index, socket) in sockets.into_iter().enumerate() {
            if index == 0 {
                let address = socket.local_addr().unwrap_or(listener.address);
                new.bound.insert(key.clone(), address);
            }
            new.by_worker[index].insert(key.clone(), socket);
        }
    }
    Ok(new)
}

impl NewSockets {
    /// A Unix socket has one queue, which the workers share.
    fn bind_unix(
        &mut self,
        listener: &plan::Listener,
        key: &ListenerKey,
        own: bool,
    ) -> io::Result<()> {
        let (socket, file) = unix::bind(listener.address, &listener.edge.socket, own)?;
        self.files.extend(file.map(|file| (key.clone(), file)));
        for sockets in &mut self.by_worker {
            sockets.insert(key.clone(), BoundSocket::Tcp(socket.try_clone()?));
        }
        self.bound.insert(key.clone(), listener.address);
        Ok(())
    }
}

/// One listening socket for each worker, all on the port of the first.
fn bind_each(listener: &plan::Listener, own: bool, workers: usize) -> io::Result<Vec<BoundSocket>> {
    let mut address = listener.address;
    let settings = &listener.edge.socket;
    // Without SO_REUSEPORT first: with it, a second lb of the same user would be let in and
    // quietly take half of the connections. For port 0 the kernel looks itself.
    if address.port() != 0 && !own {
        drop(socket(address, false, settings)?);
    }
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = socket(address, true, settings)?;
        set_listen_options(&socket, settings)?;
        let listener = socket.listen(settings.backlog)?.into_std()?;
        address = listener.local_addr()?;
        sockets.push(BoundSocket::Tcp(listener));
    }
    Ok(sockets)
}

/// One UDP socket for each worker, all on the port of the first.
fn bind_each_udp(
    listener: &plan::Listener,
    own: bool,
    workers: usize,
) -> io::Result<Vec<BoundSocket>> {
    let mut address = listener.address;
    let settings = &listener.edge.socket;
    let shared = UdpOptions {
        v6_only: settings.v6_only,
        free_bind: settings.free_bind,
        ..UdpOptions::default()
    };
    if address.port() != 0 && !own {
        let alone = UdpOptions {
            reuse_port: false,
            ..shared
        };
        drop(alone.bind(address)?);
    }
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = shared.bind(address)?;
        if settings.drops_all {
            drop_all(SockRef::from(&socket))?;
        }
        address = socket.local_addr()?;
        sockets.push(BoundSocket::Udp(socket));
    }
    Ok(sockets)
}

/// Tries the settings of a listener's sockets, and of its backends' connections, on sockets that
/// are not used.
fn try_options(listener: &plan::Listener) -> Result<(), OptionError> {
    let settings = &listener.edge.socket;
    if let (true, Ok(socket)) = (
        *settings != plan::ListenSocket::default(),
        TcpSocket::new_v4(),
    ) {
        set_listen_options(&socket, settings)?;
    }
    match &listener.protocol {
        plan::Protocol::Tcp(tcp) if tcp.backend_socket != plan::BackendSocket::default() => {
            try_backend_options(&tcp.backend_socket)
        }
        _ => Ok(()),
    }
}

fn socket(
    address: SocketAddr,
    reuse_port: bool,
    settings: &plan::ListenSocket,
) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    if settings.v6_only && address.is_ipv6() {
        SockRef::from(&socket).set_only_v6(true)?;
    }
    if settings.free_bind {
        set_free_bind(&socket)?;
    }
    if settings.drops_all {
        drop_all(SockRef::from(&socket))?;
    }
    socket.bind(address)?;
    Ok(socket)
}

/// Has the kernel drop whatever comes for a socket, the first segment of a connection too.
fn drop_all(socket: SockRef<'_>) -> io::Result<()> {
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K: keep that many bytes
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])
}

/// One line that says which listener could not be bound and what would help.
pub(crate) fn advise(
    name: &str,
    transport: Transport,
    address: SocketAddr,
    error: &io::Error,
) -> String {
    let port = address.port();
    let is_unix = is_unix(address.ip());
    let address = shown(address);
    let kind = match transport {
        Transport::Tcp => 't',
        Transport::Udp => 'u',
    };
    let what = if name == address.to_string() {
        format!("cannot listen on {address}")
    } else {
        format!("cannot listen on {address} (listener {name})")
    };
    let advice = match error.kind() {
        _ if is_unix => unix::advise(error),
        ErrorKind::AddrInUse => format!(
            "the port is in use; `ss -l{kind}np 'sport = :{port}'` shows by whom; end that or \
             choose another port"
        ),
        ErrorKind::PermissionDenied if port < 1024 => format!(
            "ports below 1024 need a right; `setcap cap_net_bind_service=+ep` on the program, \
             AmbientCapabilities=CAP_NET_BIND_SERVICE in its unit, or a port such as {}",
            8000 + port
        ),
        ErrorKind::AddrNotAvailable => {
            "the address is none of this machine's; `ip address` lists them (socket: {free_bind: \
             true} takes it all the same)"
                .to_owned()
        }
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
            "out of file descriptors; raise the limit (ulimit -n, LimitNOFILE=)".to_owned()
        }
        _ => error.to_string(),
    };
    format!("{what}: {advice}")
}

const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bind_new<'p>(
        listeners: impl IntoIterator<Item = &'p Arc<plan::Listener>>,
        already: &Bound,
        own: &OwnPorts,
        workers: usize,
    ) -> Result<NewSockets, BindError> {
        super::bind_new(listeners, already, own, workers, &|_| false)
    }

    fn listener(address: SocketAddr) -> Arc<plan::Listener> {
        Arc::new(plan::Listener {
            name: "front".into(),
            address,
            edge: plan::Edge::default(),
            access_log: plan::ListenerLog::default(),
            protocol: plan::Protocol::Tcp(plan::Tcp::to("c")),
        })
    }

    fn in_runtime<T>(test: impl FnOnce() -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { test() })
    }

    #[test]
    fn all_workers_share_the_port_that_the_kernel_chose() {
        in_runtime(|| {
            let listener = listener("127.0.0.1:0".parse().unwrap());
            let new = bind_new([&listener], &Bound::new(), &HashSet::new(), 3).unwrap();
            let address = new.bound[&ListenerKey::of(&listener)];
            assert_ne!(address.port(), 0);
            let sockets = new.by_worker.iter().flat_map(|sockets| sockets.values());
            let bound: Vec<_> = sockets.map(|socket| socket.local_addr().unwrap()).collect();
            assert_eq!(bound, [address; 3]);
            let again = bind_new([&listener], &new.bound, &HashSet::new(), 3).unwrap();
            assert!(
                again.bound.is_empty(),
                "what is bound already is left alone"
            );
        });
    }

    #[test]
    fn a_port_in_use_is_refused_even_by_a_socket_that_would_share_it() {
        in_runtime(|| {
            let taken = socket(
                "127.0.0.1:0".parse().unwrap(),
                true,
                &plan::ListenSocket::default(),
            )
            .unwrap()
            .listen(1)
            .unwrap();
            let address = taken.local_addr().unwrap();
            let bind = |own_ports| bind_new([&listener(address)], &Bound::new(), &own_ports, 1);
            let port = address.port();
            assert!(
                bind(OwnPorts::from([(Transport::Tcp, port)])).is_ok(),
                "our own sockets may be replaced"
            );
            let error = bind(OwnPorts::new()).err().unwrap();
            assert_eq!(error.listener, "front");
            assert_eq!(
                error.reason,
                format!(
                    "cannot listen on {address} (listener front): the port is in use; `ss -ltnp \
                     'sport = :{port}'` shows by whom; end that or choose another port"
                )
            );
        });
    }

    #[test]
    fn a_port_is_bound_for_udp_beside_tcp_and_only_once() {
        in_runtime(|| {
            let tcp = listener("127.0.0.1:0".parse().unwrap());
            let none = Bound::new();
            let new = bind_new([&tcp], &none, &OwnPorts::new(), 1).unwrap();
            let mut udp = plan::Listener::clone(&tcp);
            udp.address = new.bound[&ListenerKey::of(&tcp)];
            udp.protocol = plan::Protocol::Udp(plan::Udp::to("c"));
            let udp = &Arc::new(udp);
            let own = ports(&new.bound).collect();
            let both = bind_new([udp], &new.bound, &own, 2).unwrap();
            assert_eq!(both.by_worker.iter().map(Sockets::len).sum::<usize>(), 2);
            let error = bind_new([udp], &none, &own, 1).err().unwrap();
            assert!(error.reason.contains("ss -lunp"), "{}", error.reason);
            let own = ports(&both.bound).collect();
            assert!(
                bind_new([udp], &none, &own, 1).is_ok(),
                "our own may be replaced"
            );
        });
    }

    #[test]
    fn all_addresses_and_one_of_them_share_a_port_in_one_plan() {
        in_runtime(|| {
            let taken = socket("0.0.0.0:0".parse().unwrap(), false, &settings(false)).unwrap();
            let port = taken.local_addr().unwrap().port();
            drop(taken);
            let plan = ["0.0.0.0", "127.0.0.1"].map(|ip| {
                let mut listener =
                    plan::Listener::clone(&listener(SocketAddr::new(ip.parse().unwrap(), port)));
                listener.name = ip.into();
                Arc::new(listener)
            });
            let bound = bind_new(&plan, &Bound::new(), &OwnPorts::new(), 1)
                .unwrap()
                .bound;
            assert_eq!(bound.len(), 2);
        });
    }

    #[test]
    fn what_drops_all_does_not_even_refuse() {
        in_runtime(|| {
            let mut tcp = plan::Listener::clone(&listener("127.0.0.1:0".parse().unwrap()));
            tcp.edge.socket = settings(true);
            let mut udp = tcp.clone();
            udp.name = "udp".into();
            udp.protocol = plan::Protocol::Udp(plan::Udp::to("c"));
            let plan = [Arc::new(tcp), Arc::new(udp)];
            let new = bind_new(&plan, &Bound::new(), &OwnPorts::new(), 2).unwrap();
            let address = |index: usize| new.bound[&ListenerKey::of(&plan[index])];
            let wait = Duration::from_millis(200);
            let error = std::net::TcpStream::connect_timeout(&address(0), wait).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(address(1)).unwrap();
            client.set_read_timeout(Some(wait)).unwrap();
            client.send(b"?").unwrap();
            let error = client.recv(&mut [0; 8]).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::WouldBlock,
                "neither an answer nor an ICMP error"
            );
            let socket = new.by_worker[0].values().find_map(|socket| match socket {
                BoundSocket::Udp(socket) => Some(socket),
                BoundSocket::Tcp(_) => None,
            });
            let socket = socket.unwrap();
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut [0; 8]).is_err(), "it is not even received");
        });
    }

    fn settings(drops_all: bool) -> plan::ListenSocket {
        plan::ListenSocket {
            drops_all,
            ..plan::ListenSocket::default()
        }
    }

    #[test]
    fn refusals_name_their_cure() {
        let address = "192.0.2.1:80".parse().unwrap();
        for (errno, word) in [(13, "setcap"), (99, "ip address"), (24, "ulimit -n")] {
            let text = advise(
                "a",
                Transport::Tcp,
                address,
                &io::Error::from_raw_os_error(errno),
            );
            assert!(text.contains(word), "{text}");
        }
    }
}
