//! What is said of the machine a report comes from.
//!
//! Invariant: its name, addresses and users are never read, so no report can give them away.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use lb_core::rt;

use crate::report::record::Machine;

/// Describes the machine this runs on.
pub(crate) fn describe() -> Machine {
    let cpuinfo = read("/proc/cpuinfo");
    Machine {
        cpu: field(&cpuinfo, "model name")
            .unwrap_or(std::env::consts::ARCH)
            .to_owned(),
        cores: cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count(),
        memory_mib: memory_mib(&read("/proc/meminfo")),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        system: system(&read("/etc/os-release")),
        virtual_machine: field(&cpuinfo, "flags").is_some_and(has_hypervisor),
    }
}

/// A name for the folder of a report: `2-core-epyc`.
pub(crate) fn neutral_name(machine: &Machine) -> String {
    const NOT_A_FAMILY: [&str; 9] = [
        "amd",
        "intel",
        "arm",
        "cpu",
        "processor",
        "gen",
        "genuine",
        "virtual",
        "core",
    ];
    let words = machine.cpu.split(|c: char| !c.is_ascii_alphanumeric());
    let family = words.map(str::to_ascii_lowercase).find(|word| {
        word.len() > 2 && word.starts_with(char::is_alphabetic) && !NOT_A_FAMILY.contains(&&**word)
    });
    let family = family.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{}-core-{family}", machine.cores)
}

/// The time now, UTC: `2026-01-31T12:00:00Z`.
pub(crate) fn utc_now() -> String {
    utc(rt::wall_clock()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default())
}

fn utc(since_epoch: Duration) -> String {
    const DAY_S: u64 = 86_400;
    let (days, seconds) = (since_epoch.as_secs() / DAY_S, since_epoch.as_secs() % DAY_S);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn has_hypervisor(flags: &str) -> bool {
    flags.split(' ').any(|flag| flag == "hypervisor")
}

fn memory_mib(meminfo: &str) -> u64 {
    let kib = field(meminfo, "MemTotal").and_then(|value| value.strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) / 1024
}

fn system(os_release: &str) -> String {
    let name = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(cpu: &str, cores: usize) -> String {
        neutral_name(&Machine {
            cpu: cpu.to_owned(),
            cores,
            ..describe()
        })
    }

    #[test]
    fn the_name_says_what_kind_of_machine_it_is() {
        assert_eq!(named("AMD EPYC", 2), "2-core-epyc");
        assert_eq!(
            named("AMD EPYC 7763 64-Core Processor", 128),
            "128-core-epyc"
        );
        assert_eq!(
            named("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", 32),
            "32-core-xeon"
        );
        assert_eq!(
            named("AMD Ryzen 9 5950X 16-Core Processor", 32),
            "32-core-ryzen"
        );
        assert_eq!(named("", 4), format!("4-core-{}", std::env::consts::ARCH));
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(utc(Duration::ZERO), "1970-01-01T00:00:00Z");
        assert_eq!(
            utc(Duration::from_secs(951_782_400)),
            "2000-02-29T00:00:00Z"
        );
        assert_eq!(
            utc(Duration::from_secs(1_798_761_599)),
            "2026-12-31T23:59:59Z"
        );
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let cpuinfo =
            "processor\t: 0\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nflags\t: fpu hypervisor\n";
        assert_eq!(field(cpuinfo, "model name"), Some("AMD EPYC"));
        assert!(has_hypervisor(field(cpuinfo, "flags").unwrap()));
        assert_eq!(memory_mib("MemTotal:        8388608 kB\n"), 8192);
        assert_eq!(
            system("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
    }
}
