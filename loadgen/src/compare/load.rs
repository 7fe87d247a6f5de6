//! The traffic: which origins answer, and what the generator asks.
//!
//! Invariant: what the report shows as a command is what ran. The generator runs in this
//! process, from the very words that the command would give it, so that the balancer's CPU
//! time can be read at the moments when the measured window begins and ends.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser as _;

use super::scenario::{Scenario, Secure, Speech, Traffic};
use crate::args::{Cli, Command};
use crate::gate::Gate;
use crate::run::{self, Observer, Summary};

/// Larger bodies are counted only: comparing them would be most of the generator's work.
const VERIFY_BYTES_MAX: usize = 1 << 20;

/// The words of a `loadgen run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadCommand(pub(crate) Vec<String>);

/// How long and where the generator runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Load that is not measured.
    pub(crate) warmup: Duration,
    /// Load that is.
    pub(crate) duration: Duration,
    /// The generator's core.
    pub(crate) cpu: usize,
}

impl LoadCommand {
    /// What `traffic` of `scenario` to the balancer at `at` takes; `rate` in answers per second,
    /// without it as many as there can be.
    pub(crate) fn new(
        scenario: Scenario,
        traffic: Traffic,
        at: SocketAddr,
        timing: Timing,
        rate: Option<f64>,
    ) -> Self {
        let (spec, mut words) = (scenario.spec(), vec!["run".to_owned()]);
        match spec.speech {
            Speech::Http => words.extend(http_words(spec.secure, at)),
            Speech::Http2 => words.push(format!("h2c://{at}/")),
            Speech::Grpc => words.extend(split(&format!(
                "h2c://{at}/echo.Echo/Say --grpc unary --message {}",
                spec.answer_bytes
            ))),
            Speech::WebSocket => words.extend(split(&format!(
                "ws://{at}/ --message {}",
                spec.answer_bytes
            ))),
            Speech::Echo => words.extend(split(&format!(
                "tcp://{at} --message {}",
                spec.answer_bytes
            ))),
            Speech::Stream => words.extend(split(&format!(
                "tcp://{at} --tcp-mode stream:{}",
                spec.answer_bytes
            ))),
            Speech::DatagramEcho => words.extend(split(&format!(
                "udp://{at} --message {}",
                spec.answer_bytes
            ))),
            Speech::DatagramStream { at_a_time } => words.extend(split(&format!(
                "udp://{at} --one-way --message {} --gso {at_a_time}",
                spec.answer_bytes
            ))),
        }
        let is_compared = matches!(spec.speech, Speech::Http | Speech::Http2);
        if is_compared && spec.answer_bytes <= VERIFY_BYTES_MAX {
            words.push("--verify".to_owned());
        }
        words.extend(split(&format!(
            "-c {} --warmup {} -d {} --cpu {}",
            traffic.connections,
            written(timing.warmup),
            written(timing.duration),
            timing.cpu
        )));
        if traffic.streams > 1 {
            words.extend(split(&format!("-m {}", traffic.streams)));
        }
        if traffic.new_connections {
            words.push("--new-connections".to_owned());
        }
        match rate {
            Some(rate) => words.extend(split(&format!("--rate {rate}"))),
            None => words.push("--closed".to_owned()),
        }
        Self(words)
    }
}

/// The URL, and what is offered there: one suite and one key exchange, so that no balancer can
/// choose what costs it less.
fn http_words(secure: Secure, at: SocketAddr) -> Vec<String> {
    let resume = match secure {
        Secure::No => return vec![format!("http://{at}/")],
        Secure::Full => "",
        Secure::Resumed => " --resume 1",
    };
    split(&format!(
        "https://{at}/ --tls-version 1.3 --tls-groups x25519 --tls-suites aes128{resume}"
    ))
}

/// The words of a `loadgen origin` for `scenario` at both addresses.
pub(crate) fn origin_words(scenario: Scenario, at: [SocketAddr; 2]) -> Vec<String> {
    let [first, second] = at;
    let bytes = scenario.spec().answer_bytes;
    split(&match scenario.spec().speech {
        Speech::Grpc | Speech::Http | Speech::Http2 | Speech::WebSocket => {
            format!("origin --http {first} {second} --body {bytes}")
        }
        Speech::Echo => format!("origin --tcp {first} {second}"),
        Speech::Stream => format!("origin --tcp {first} {second} --tcp-mode stream:{bytes}"),
        Speech::DatagramEcho | Speech::DatagramStream { .. } => {
            format!("origin --udp {first} {second}")
        }
    })
}

/// Runs the generator until it is done or `stop` is opened.
///
/// # Errors
/// When it cannot run at all; failed requests are in the summary.
pub(crate) fn run(
    command: &LoadCommand,
    observer: &mut dyn Observer,
    stop: &Gate,
) -> Result<Summary, String> {
    let words = std::iter::once("loadgen").chain(command.0.iter().map(String::as_str));
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    let Command::Run(args) = cli.command else {
        return Err(format!("{command:?} is no load"));
    };
    let config = run::Config::try_from(&*args)?;
    run::run(&config, observer, stop).map_err(|error| error.to_string())
}

/// What went wrong in a run, in one line.
pub(crate) fn failures(summary: &Summary) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (kind, count) in summary.errors.occurred() {
        parts.push(format!("{count} × {kind}"));
    }
    if summary.unanswered > 0 {
        parts.push(format!("{} were due and had no answer", summary.unanswered));
    }
    if summary.completed == 0 {
        parts.push("nothing was answered".to_owned());
    }
    parts.join(", ")
}

/// As the command line takes it.
pub(crate) fn written(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

fn split(words: &str) -> Vec<String> {
    words.split(' ').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::peers::Site;
    use super::super::scenario::Subject;
    use super::*;
    use crate::run::LoadMode;

    const TIMING: Timing = Timing {
        warmup: Duration::from_millis(300),
        duration: Duration::from_secs(5),
        cpu: 1,
    };

    fn command(scenario: Scenario, rate: Option<f64>) -> String {
        let Subject::Load(traffic) = scenario.spec().subject else {
            panic!("{scenario:?} has no load");
        };
        LoadCommand::new(scenario, traffic, Site::address(8000), TIMING, rate)
            .0
            .join(" ")
    }

    #[test]
    fn each_scenario_has_its_command() {
        assert_eq!(
            command(Scenario::L7NewConnections, None),
            "run http://127.0.0.1:8000/ --verify -c 64 --warmup 300ms -d 5s --cpu 1 --new-connections \
             --closed"
        );
        assert_eq!(
            command(Scenario::L4Small, Some(15_000.0)),
            "run tcp://127.0.0.1:8000 --message 64 -c 64 --warmup 300ms -d 5s --cpu 1 \
             --rate 15000"
        );
        assert!(
            command(Scenario::UdpOneWayGso, None)
                .contains("udp://127.0.0.1:8000 --one-way --message 1200 --gso 8 -c 4 ")
        );
        assert!(command(Scenario::TlsHandshakeResumed, None).starts_with(
            "run https://127.0.0.1:8000/ --tls-version 1.3 --tls-groups x25519 --tls-suites \
                 aes128 --resume 1 --verify -c 32 "
        ));
        assert!(command(Scenario::L4Bulk, None).contains(" --tcp-mode stream:67108864 -c 8 "));
    }

    #[test]
    fn commands_are_understood_by_the_program() {
        for scenario in Scenario::ALL {
            let Subject::Load(traffic) = scenario.spec().subject else {
                continue;
            };
            let fixed_rate = traffic.fixed_rate.then_some(1000.0);
            for rate in std::iter::once(None).chain(fixed_rate.map(Some)) {
                let at = Site::address(8000);
                let command = LoadCommand::new(scenario, traffic, at, TIMING, rate);
                let words = std::iter::once("loadgen").chain(command.0.iter().map(String::as_str));
                let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else {
                    panic!("{command:?} is no load");
                };
                let mode = rate.map(|rate_per_s| LoadMode::Open { rate_per_s });
                assert_eq!(args.rate, mode);
                run::Config::try_from(&*args).unwrap();
            }
        }
    }

    #[test]
    fn origins_answer_as_the_scenario_wants() {
        let at = [Site::address(1), Site::address(2)];
        let words = origin_words(Scenario::L7Keepalive, at).join(" ");
        assert_eq!(words, "origin --http 127.0.0.1:1 127.0.0.1:2 --body 64");
        let words = origin_words(Scenario::L4Bulk, at).join(" ");
        assert!(words.ends_with("--tcp-mode stream:67108864"), "{words}");
    }
}
