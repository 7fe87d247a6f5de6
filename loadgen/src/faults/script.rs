//! What is broken, and when: a script of one event a line.
//!
//! Invariant: a script that is accepted can be carried out: its origins exist, what is restarted
//! was killed before, and so on. Events come at whole seconds, in order.
//! Read next: `course.rs`, which carries it out.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use crate::units::parse_duration;

/// A script, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    /// What happens, each with the second from the beginning of the window.
    pub(crate) events: Vec<(u64, Event)>,
    /// Length of the window.
    pub(crate) end_s: u64,
}

/// One thing that happens to origin number `0`… or to the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The origin is killed (SIGKILL): its connections are reset, new ones refused.
    Kill(usize),
    /// It is started again.
    Restart(usize),
    /// It is stopped (SIGSTOP): it accepts by the kernel's hand and answers nothing.
    Stop(usize),
    /// It goes on.
    Continue(usize),
    /// Each of its answers takes longer.
    Slow(usize),
    /// As long as before.
    Recover(usize),
    /// It is taken out of the configuration.
    Remove(usize),
    /// It is put back.
    Add(usize),
    /// The configuration is written again without a change.
    Reload,
    /// The configuration becomes one that cannot be read, and then what it was.
    BadConfig,
    /// Certificate and key are replaced by others; clients come over TLS for that.
    Certificate,
}

/// The scripts by name.
pub(crate) const NAMED: [(&str, &str); 7] = [
    (
        "all",
        "5s kill o-1\n10s restart o-1\n15s stop o-2\n20s continue o-2\n25s slow o-3\n\
         30s recover o-3\n35s remove o-4\n40s add o-4\n43s reload\n46s bad-config\n49s certificate\n55s end\n",
    ),
    (
        "certificates",
        "3s certificate\n6s certificate\n9s reload\n12s certificate\n15s end\n",
    ),
    (
        "kills",
        "5s kill o-1\n10s kill o-2\n15s restart o-1\n20s restart o-2\n25s end\n",
    ),
    (
        "restarts",
        "3s kill o-1\n4s restart o-1\n6s kill o-2\n7s restart o-2\n9s kill o-1\n\
         10s restart o-1\n12s end\n",
    ),
    ("stops", "5s stop o-1\n15s continue o-1\n20s end\n"),
    ("slow", "5s slow o-1\n15s recover o-1\n20s end\n"),
    (
        "reloads",
        "3s remove o-1\n6s add o-1\n9s reload\n12s bad-config\n15s end\n",
    ),
];

/// Origins that are taken away, each with what gives it back.
const PAIRS: [(&str, &str); 4] = [
    ("kill", "restart"),
    ("stop", "continue"),
    ("slow", "recover"),
    ("remove", "add"),
];

impl Script {
    /// Whether clients have to come over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.events
            .iter()
            .any(|(_, event)| *event == Event::Certificate)
    }

    /// Reads a script for so many origins.
    ///
    /// # Errors
    /// Names the line and what is wrong with it.
    pub(crate) fn parse(text: &str, origins: usize) -> Result<Self, String> {
        let mut events: Vec<(u64, Event)> = Vec::new();
        let mut end_s = None;
        let mut away: HashSet<(usize, &str)> = HashSet::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let explain = |what: String| format!("line {number}, `{line}`: {what}");
            let (at, what) = line
                .split_once(' ')
                .ok_or_else(|| explain("write a time and an event, as in 5s kill o-1".into()))?;
            let at = whole_seconds(at).map_err(explain)?;
            let last = events.last().map_or(0, |(at, _)| *at);
            if end_s.is_some() || at <= last {
                return Err(explain(
                    "events come one after the other, and end is last".into(),
                ));
            }
            if what.trim() == "end" {
                end_s = Some(at);
                continue;
            }
            let event = Event::parse(what, origins).map_err(explain)?;
            event.check(&mut away).map_err(explain)?;
            events.push((at, event));
        }
        let end_s =
            end_s.ok_or("the script has no end; write one as its last line, as in 30s end")?;
        Ok(Self { events, end_s })
    }
}

impl Event {
    fn parse(text: &str, origins: usize) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let origin = words.next();
        if words.next().is_some() {
            return Err("too many words".into());
        }
        match (verb, origin) {
            ("reload", None) => return Ok(Self::Reload),
            ("bad-config", None) => return Ok(Self::BadConfig),
            ("certificate", None) => return Ok(Self::Certificate),
            _ => {}
        }
        let make = match verb {
            "kill" => Self::Kill,
            "restart" => Self::Restart,
            "stop" => Self::Stop,
            "continue" => Self::Continue,
            "slow" => Self::Slow,
            "recover" => Self::Recover,
            "remove" => Self::Remove,
            "add" => Self::Add,
            _ => {
                return Err(format!(
                    "there is no event {verb:?}; there are kill, restart, stop, continue, slow, \
                     recover, remove, add (each with an origin), reload, bad-config, certificate and end"
                ));
            }
        };
        let number: Option<usize> = origin
            .and_then(|name| name.strip_prefix("o-")?.parse().ok())
            .filter(|number| (1..=origins).contains(number));
        let number = number.ok_or_else(|| format!("name an origin, o-1 to o-{origins}"))?;
        Ok(make(number - 1))
    }

    /// Refuses to give back what is there, and to take away what is not.
    fn check(self, away: &mut HashSet<(usize, &'static str)>) -> Result<(), String> {
        let verb = self.verb();
        let (Some(origin), Some((take, _))) = (
            self.origin(),
            PAIRS
                .iter()
                .find(|(take, give)| *take == verb || *give == verb),
        ) else {
            return Ok(());
        };
        let takes = *take == verb;
        let is_good = if takes {
            away.insert((origin, take))
        } else {
            away.remove(&(origin, *take))
        };
        match (is_good, takes) {
            (true, _) => Ok(()),
            (false, true) => Err(format!("a second {take} of one origin")),
            (false, false) => Err(format!("a {verb} without a {take} before")),
        }
    }

    const fn verb(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Restart(_) => "restart",
            Self::Stop(_) => "stop",
            Self::Continue(_) => "continue",
            Self::Slow(_) => "slow",
            Self::Recover(_) => "recover",
            Self::Remove(_) => "remove",
            Self::Add(_) => "add",
            Self::Reload => "reload",
            Self::BadConfig => "bad-config",
            Self::Certificate => "certificate",
        }
    }

    const fn origin(self) -> Option<usize> {
        match self {
            Self::Kill(origin)
            | Self::Restart(origin)
            | Self::Stop(origin)
            | Self::Continue(origin)
            | Self::Slow(origin)
            | Self::Recover(origin)
            | Self::Remove(origin)
            | Self::Add(origin) => Some(origin),
            Self::Reload | Self::BadConfig | Self::Certificate => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        match self.origin() {
            Some(origin) => write!(f, " o-{}", origin + 1),
            None => Ok(()),
        }
    }
}

fn whole_seconds(text: &str) -> Result<u64, String> {
    let time = parse_duration(text)?;
    if time.subsec_nanos() != 0 || time == Duration::ZERO {
        return Err(format!("`{text}` is not a whole number of seconds above 0"));
    }
    Ok(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_scripts_can_be_carried_out() {
        for (name, text) in NAMED {
            let script = Script::parse(text, 4).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!script.events.is_empty());
        }
    }

    #[test]
    fn events_read_back_as_written() {
        let text = "# a comment\n1s stop o-2\n\n2s continue o-2 # another\n1m reload\n61s end\n";
        let script = Script::parse(text, 2).unwrap();
        let told: Vec<String> = script
            .events
            .iter()
            .map(|(at, event)| format!("{at} {event}"))
            .collect();
        assert_eq!(told, ["1 stop o-2", "2 continue o-2", "60 reload"]);
        assert_eq!(script.end_s, 61);
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_with_its_line() {
        for (text, named) in [
            ("5s kill o-1\n", "no end"),
            ("5s\n9s end\n", "line 1"),
            ("5s bite o-1\n9s end\n", "bad-config"),
            ("5s kill o-3\n9s end\n", "o-1 to o-2"),
            ("5s kill\n9s end\n", "o-1 to o-2"),
            ("5s kill o-1 now\n9s end\n", "too many"),
            ("5s restart o-1\n9s end\n", "without a kill"),
            ("1s kill o-1\n2s kill o-1\n9s end\n", "line 2"),
            ("5s kill o-1\n5s reload\n9s end\n", "one after the other"),
            ("5s end\n9s reload\n", "end is last"),
            ("1500ms reload\n9s end\n", "whole number"),
            ("0s reload\n9s end\n", "whole number"),
        ] {
            let error = Script::parse(text, 2).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
