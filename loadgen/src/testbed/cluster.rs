//! The file that configures `lb`: one listener, one cluster.
//!
//! Invariant: it says no more than what is asked for, so that everything else is as shipped.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::str::FromStr;

/// What `lb` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It proxies HTTP; a backend is chosen for each request.
    Http,
    /// It relays TCP; a backend is chosen for each connection, and each request has one.
    Tcp,
}

/// Connections that `ovf` gives to one backend before it turns to the next.
pub(crate) const OVERFLOW_WEIGHT: u16 = 32;

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterFile {
    pub(crate) mode: Mode,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) engine: String,
    pub(crate) workers: usize,
    pub(crate) balance: String,
    /// Further keys of the cluster, each `KEY: VALUE`.
    pub(crate) keys: Vec<String>,
    pub(crate) backends: Vec<SocketAddr>,
    /// How TCP is relayed; `None`: as `lb` finds best.
    pub(crate) relay: Option<String>,
    /// Clients come over TLS, by the files `site.crt` and `site.key`.
    pub(crate) is_secure: bool,
}

impl Mode {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http" => Ok(Self::Http),
            "tcp" => Ok(Self::Tcp),
            _ => Err(format!("there is no mode {text:?}; there are http and tcp")),
        }
    }
}

impl ClusterFile {
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "listeners:
  - address: {listen}
    {mode}:
      cluster: origins
{further}clusters:
  origins:
    balance: {balance}
",
            listen = self.listen,
            mode = self.mode.name(),
            further = match &self.relay {
                _ if self.is_secure =>
                    "      tls: {certificate: site.crt, key: site.key}\n".to_owned(),
                Some(relay) => format!("      relay: {relay}\n"),
                None => String::new(),
            },
            balance = self.balance,
        );
        for key in &self.keys {
            let _ = writeln!(text, "    {key}");
        }
        // The one scheduler to which a weight is a number of connections.
        let weight = if self.balance == "ovf" {
            format!("/{OVERFLOW_WEIGHT}")
        } else {
            String::new()
        };
        text += "    backends:\n";
        for backend in &self.backends {
            let _ = writeln!(text, "      - {backend}{weight}");
        }
        let _ = write!(
            text,
            "workers: {}\nengine: {}\nadmin: {}\n",
            self.workers, self.engine, self.admin
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_was_asked_for() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let file = ClusterFile {
            mode: Mode::Tcp,
            listen: address(1),
            admin: address(2),
            engine: "epoll".to_owned(),
            workers: 2,
            balance: "mh".to_owned(),
            keys: vec!["affinity: client-ip".to_owned()],
            backends: vec![address(3), address(4)],
            relay: None,
            is_secure: false,
        };
        let expected = "listeners:
  - address: 127.0.0.1:1
    tcp:
      cluster: origins
clusters:
  origins:
    balance: mh
    affinity: client-ip
    backends:
      - 127.0.0.1:3
      - 127.0.0.1:4
workers: 2
engine: epoll
admin: 127.0.0.1:2
";
        assert_eq!(file.text(), expected);
        let secure = ClusterFile {
            mode: Mode::Http,
            is_secure: true,
            ..file.clone()
        };
        let expected =
            "cluster: origins\n      tls: {certificate: site.crt, key: site.key}\nclusters:";
        assert!(secure.text().contains(expected), "{}", secure.text());
        let spliced = ClusterFile {
            relay: Some("splice".to_owned()),
            ..file.clone()
        };
        let expected = "    tcp:\n      cluster: origins\n      relay: splice\nclusters:";
        assert!(spliced.text().contains(expected), "{}", spliced.text());
        let overflow = ClusterFile {
            balance: "ovf".to_owned(),
            ..file
        };
        assert!(overflow.text().contains("- 127.0.0.1:4/32\n"));
    }
}
