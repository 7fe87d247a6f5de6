//! Flags of `loadgen run` that do not go together, each refused by name.
//!
//! Invariant: what is not refused here makes a valid `run::Config`.
//! Read next: `run.rs`.

use super::RunArgs;
use crate::run::{Scheme, UdpRequest};
use crate::tcp::TcpMode;
use crate::udp;

impl RunArgs {
    pub(super) fn refuse_settings_of_the_other_scheme(&self) -> Result<(), String> {
        use Scheme::{H2c, Http, Https, Tcp, Udp, Ws, Wss};
        let with_headers = &[Http, Https, H2c, Ws, Wss][..];
        let with_bodies = &[Http, Https, H2c][..];
        let secure = &[Https, Wss][..];
        let connected = &[Http, Https, H2c, Ws, Wss, Tcp][..];
        let flags: [(&str, bool, &[Scheme]); 25] = [
            ("--scenario", self.scenario.is_some(), &[Http, Https]),
            ("--replay", self.replay.is_some(), &[Http, Https]),
            ("--header", !self.headers.is_empty(), with_headers),
            ("--method", self.method.is_some(), with_bodies),
            ("--body", self.body.is_some(), with_bodies),
            ("--new-connections", self.new_connections, connected),
            (
                "--requests-per-connection",
                self.requests_per_connection.is_some(),
                connected,
            ),
            ("--ramp-up", !self.ramp_up.is_zero(), connected),
            ("--idle", self.idle > 0, connected),
            ("--http2", self.http2, &[Https]),
            ("-m", self.streams.is_some(), &[H2c, Https]),
            ("--grpc", self.grpc.is_some(), &[H2c, Https]),
            ("--verify", self.verify, &[Http, Https, H2c]),
            ("--resume", self.resume.is_some(), secure),
            ("--tls-version", self.tls_version.is_some(), secure),
            ("--tls-groups", !self.tls_groups.is_empty(), secure),
            ("--tls-suites", !self.tls_suites.is_empty(), secure),
            ("--tls-name", self.tls_name.is_some(), secure),
            ("--tls-ca", self.tls_ca.is_some(), secure),
            (
                "--message",
                self.message.is_some(),
                &[H2c, Https, Ws, Wss, Tcp, Udp],
            ),
            ("--tcp-mode", self.tcp_mode.is_some(), &[Tcp]),
            ("--who", self.who, &[Tcp]),
            ("--one-way", self.one_way, &[Udp]),
            ("--window", self.window.is_some(), &[Udp]),
            ("--gso", self.gso.is_some(), &[Udp]),
        ];
        let wrong = |(_, given, schemes): &&(_, bool, &[Scheme])| {
            *given && !schemes.contains(&self.url.scheme)
        };
        if let Some((flag, _, schemes)) = flags.iter().find(wrong) {
            let names: Vec<&str> = schemes.iter().map(|scheme| scheme.prefix()).collect();
            let (last, others) = names.split_last().unwrap_or((&"", &[]));
            let and = if others.is_empty() { "" } else { " and " };
            return Err(format!(
                "{flag} is for {}{and}{last} URLs, and this is {}",
                others.join(", "),
                self.url
            ));
        }
        self.refuse_bad_http2()?;
        let streams = matches!(self.tcp_mode, Some(TcpMode::Stream(_)));
        match self.message {
            Some(_) if streams => Err("--message is for --tcp-mode echo".into()),
            Some(0) => Err("--message 0: at least 1 byte has to come back".into()),
            _ if self.url.scheme == Udp => self.refuse_bad_datagrams(),
            _ => Ok(()),
        }
    }

    fn refuse_bad_http2(&self) -> Result<(), String> {
        let is_http2 = self.http2 || self.url.scheme == Scheme::H2c;
        let streams = self.streams.unwrap_or(1);
        if !is_http2 && (self.streams.is_some() || self.grpc.is_some()) {
            return Err("-m and --grpc are for HTTP/2: give --http2, too".into());
        }
        if is_http2 && (self.scenario.is_some() || self.replay.is_some()) {
            return Err("--scenario and --replay are for HTTP/1.1".into());
        }
        if streams == 0 {
            return Err("-m 0: at least 1 request has to be under way".into());
        }
        if streams > 1 && self.new_connections {
            return Err("-m is for connections that last, and not for --new-connections".into());
        }
        if self.message.is_some() && self.url.scheme.is_http() && self.grpc.is_none() {
            let is_websocket = matches!(self.url.scheme, Scheme::Ws | Scheme::Wss);
            if !is_websocket {
                return Err("--message is for --grpc; the size of a request is its --body".into());
            }
        }
        if self.grpc.is_some() && (self.method.is_some() || self.body.is_some()) {
            return Err("--grpc calls have a method and a body of their own: --message".into());
        }
        Ok(())
    }

    fn refuse_bad_datagrams(&self) -> Result<(), String> {
        let UdpRequest {
            message,
            window,
            gso,
            one_way,
        } = self.udp();
        if !(udp::HEADER_BYTES..=udp::DATAGRAM_BYTES_MAX).contains(&message) {
            return Err(format!(
                "--message {message}: a datagram has from {} to {} bytes",
                udp::HEADER_BYTES,
                udp::DATAGRAM_BYTES_MAX
            ));
        }
        let least = if one_way { 2 } else { 1 };
        if window < least {
            return Err(format!("--window {window}: at least {least} is needed"));
        }
        if self.rate.is_some() && (self.window.is_some() || gso > 1) {
            return Err("--window and --gso are for a closed loop, and this has a --rate".into());
        }
        match gso {
            0 => Err("--gso 0: at least 1 has to be sent".into()),
            1 => Ok(()),
            _ if !one_way => Err("--gso is for --one-way".into()),
            65.. => Err(format!("--gso {gso}: the kernel takes at most 64")),
            _ if gso * message > udp::DATAGRAM_BYTES_MAX => Err(format!(
                "--gso {gso}: so many datagrams of {message} bytes are more than {} bytes",
                udp::DATAGRAM_BYTES_MAX
            )),
            _ => Ok(()),
        }
    }
}
