//! Other people's servers, started beside `lb`.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::{DEADLINE, Folder, free_ports, skip};

/// A server with a folder of its own; killed on drop.
pub(crate) struct Other {
    child: Child,
    _folder: Folder,
    /// Where it listens, on as many ports as it was given.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Other {
    /// HAProxy with this configuration, made for the ports it is to listen on. `None`, said why,
    /// if it is not installed.
    pub(crate) fn haproxy(ports: u16, configuration: impl Fn(&[u16]) -> String) -> Option<Self> {
        let defaults = "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 10s\n  \
                        timeout client 60s\n  timeout server 60s\n";
        Self::start("haproxy", ports, |folder, ports| {
            let text = format!("{defaults}{}", configuration(ports));
            let path = folder.write("haproxy.cfg", &text);
            vec!["-db".into(), "-f".into(), path]
        })
    }

    /// nginx with these server blocks, in the folder that they may use files of.
    pub(crate) fn nginx(ports: u16, servers: impl Fn(&Folder, &[u16]) -> String) -> Option<Self> {
        Self::start("nginx", ports, |folder, ports| {
            let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let paths = paths.map(|name| format!("{name}_temp_path {};\n", folder.path(name)));
            let text = format!(
                "daemon off; master_process off; pid {}; error_log stderr;\nevents {{}}\n\
                 http {{\naccess_log off;\n{}{}\n}}\n",
                folder.path("pid"),
                paths.concat(),
                servers(folder, ports)
            );
            let path = folder.write("nginx.conf", &text);
            vec!["-e".into(), "stderr".into(), "-c".into(), path]
        })
    }

    /// Ports that were free a moment ago may be taken by the time the server binds them: then it
    /// ends, and others are tried.
    fn start(
        program: &str,
        ports: u16,
        arguments: impl Fn(&Folder, &[u16]) -> Vec<String>,
    ) -> Option<Self> {
        for _ in 0..5 {
            let ports = free_ports(ports);
            let address = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            let addresses = ports.iter().map(address).collect();
            let folder = Folder::new();
            let mut command = Command::new(program);
            command
                .args(arguments(&folder, &ports))
                .stdin(Stdio::null());
            let spawned = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
            let Ok(child) = spawned else {
                skip(&format!("{program} not installed"));
                return None;
            };
            let mut other = Self {
                child,
                _folder: folder,
                addresses,
            };
            if other.is_up() {
                return Some(other);
            }
            let mut said = String::new();
            let stderr = other.child.stderr.take().unwrap();
            stderr.take(10_000).read_to_string(&mut said).unwrap();
            assert!(said.contains("in use"), "{program}: {said}");
        }
        panic!("{program} found no free ports");
    }

    /// Waits until every port answers; false if the server ends first.
    fn is_up(&mut self) -> bool {
        for _ in 0..DEADLINE.as_millis() / 10 {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self
                .addresses
                .iter()
                .all(|at| TcpStream::connect(at).is_ok())
            {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("a server does not come up");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
