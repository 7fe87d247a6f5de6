//! The origins, each a process, and how one after the other leaves and comes back.
//!
//! Invariant: who leaves in order gets no new load before it is told to end, and ends with what it
//! has under way; at most one is away at a time.
//! Read next: `course.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use super::loads;
use crate::compare::Error;
use crate::compare::process::{Process, wait_until};
use crate::testbed::{Mode, Testbed};

/// How long one that ends goes on with what it has under way.
const DRAIN: Duration = Duration::from_mins(2);
/// How long one that was killed stays away.
const AWAY: Duration = Duration::from_secs(1);
/// Origins of each group.
const EACH: usize = 3;

/// Origins of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// Their answers are short; they end in order.
    Small,
    /// Their answers have 1 MiB; they end in order.
    Large,
    /// Their answers are short; they are killed.
    Killed,
}

const GROUPS: [Group; 3] = [Group::Killed, Group::Small, Group::Large];

/// All origins, and `lb` before them.
pub(super) struct Fleet<'a> {
    testbed: &'a Testbed<'a>,
    doors: Vec<SocketAddr>,
    admin: SocketAddr,
    engine: String,
    origins: Vec<Origin>,
    /// Restarts until now.
    turn: usize,
}

struct Origin {
    group: Group,
    name: String,
    address: SocketAddr,
    /// `None` while it is away.
    process: Option<Process>,
    is_configured: bool,
}

impl<'a> Fleet<'a> {
    /// Ports that all of it needs: listeners, admin API, origins.
    pub(super) const PORTS: usize = loads::Door::ALL.len() + 1 + GROUPS.len() * EACH;

    /// Starts all origins, and writes the configuration of `lb`.
    pub(super) fn open(
        testbed: &'a Testbed<'a>,
        addresses: &[SocketAddr],
        engine: &str,
    ) -> Result<Self, Error> {
        let (doors, rest) = addresses.split_at(loads::Door::ALL.len());
        let mut fleet = Self {
            testbed,
            doors: doors.to_vec(),
            admin: rest[0],
            engine: engine.to_owned(),
            origins: Vec::new(),
            turn: 0,
        };
        for (number, address) in rest[1..].iter().enumerate() {
            let group = GROUPS[number % GROUPS.len()];
            let place = number / GROUPS.len() + 1;
            let mut origin = Origin {
                group,
                name: format!("{}-{place}", group.name()),
                address: *address,
                process: None,
                is_configured: true,
            };
            origin.process = Some(fleet.start(&origin)?);
            fleet.origins.push(origin);
        }
        fleet.write().map_err(Error::Origins)?;
        Ok(fleet)
    }

    /// The listeners.
    pub(super) fn doors(&self) -> &[SocketAddr] {
        &self.doors
    }

    /// The admin API.
    pub(super) const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The configuration of `lb` as it is now.
    pub(super) fn configuration(&self) -> String {
        loads::configuration(&self.doors, self.admin, &self.engine, |group| {
            let own = self.origins.iter().filter(|it| it.group == group);
            let configured = own.filter(|it| it.is_configured);
            configured.map(|it| it.address).collect()
        })
    }

    /// Restarts the next origin, or kills it and starts it again; what was done.
    pub(super) fn restart_next(&mut self) -> Result<String, String> {
        let place = self.turn % self.origins.len();
        self.turn += 1;
        let name = self.origins[place].name.clone();
        if self.origins[place].group == Group::Killed {
            // Dropping a process kills it.
            self.origins[place].process = None;
            wait_until(self.testbed.stop, AWAY, || false);
            self.come_back(place)?;
            return Ok(format!("{name} was killed and came back"));
        }
        self.origins[place].is_configured = false;
        self.reload()?;
        let ended = self.end(place)?;
        self.come_back(place)?;
        self.origins[place].is_configured = true;
        self.reload()?;
        Ok(format!("{name} {ended} and came back"))
    }

    /// Tells one to end, and waits until it has.
    fn end(&mut self, place: usize) -> Result<&'static str, String> {
        let Some(mut process) = self.origins[place].process.take() else {
            return Err(format!("{} is not there", self.origins[place].name));
        };
        let told = process.signal(Signal::TERM);
        told.map_err(|error| format!("{}: {error}", self.origins[place].name))?;
        let has_ended = wait_until(self.testbed.stop, DRAIN + AWAY, || {
            process.ended().is_some()
        });
        Ok(if has_ended {
            "ended"
        } else {
            "had to be killed"
        })
    }

    fn come_back(&mut self, place: usize) -> Result<(), String> {
        let process = self.start(&self.origins[place]);
        self.origins[place].process = Some(process.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn start(&self, origin: &Origin) -> Result<Process, Error> {
        let body = if origin.group == Group::Large {
            "1MiB"
        } else {
            "64"
        };
        let options = format!(
            "--name {} --body {body} --drain {}s",
            origin.name,
            DRAIN.as_secs()
        );
        self.testbed
            .start_origins(Mode::Http, &[origin.address], &origin.name, &options)
    }

    fn write(&self) -> Result<(), String> {
        let written = self.testbed.write_text(&self.configuration());
        written.map_err(|error| format!("its configuration: {error}"))
    }

    fn reload(&self) -> Result<(), String> {
        self.testbed.change(self.admin, || self.write())
    }
}

impl Group {
    const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
            Self::Killed => "killed",
        }
    }
}
