//! `README.md` of a report: where, with what and how it was measured, and what to doubt.
//!
//! Invariant: whoever reads it can repeat the measurement: each command and each configuration
//! stands in it as it was used.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::Error;
use super::record::{Record, Scenario, Setup};

/// The folder with the configurations, within a report's folder.
pub const CONFIGURATIONS: &str = "configs";

const METHOD: &str = "\
- One balancer at a time, pinned to core {balancer} with one worker. The generator and two origins
  share core {generator}. Everything else is left as the machine has it.
- Rounds are interleaved: each peer runs once, then each again. A round starts the balancer
  afresh, waits until it answers, loads it for {warmup} s without measuring, then for {duration} s.
- **CPU time** is that of all processes and threads of the balancer over the measured window, from
  `/proc/PID/task/*/schedstat` (nanoseconds), divided by the units of work completed in it. It
  is split into the balancer's own code and the kernel's by `utime` and `stime` of the same window
  (`/proc/PID/stat`, all threads; `user_s` and `system_s` in `raw.json`). The busy time of the whole
  core stands beside it, which would show work that the kernel does there in nobody's name.
- **In the kernel** is, over loopback, mostly TCP or UDP itself: sending includes receiving at the
  other end. Every balancer pays that for the same traffic. What one can do about it is to make
  fewer system calls, or to move more with each; what its code costs is the column beside it. So a
  ratio close to 1 may hide code that costs half: compare both columns. The **floor** of a promise
  is our part in the kernel divided by all that the rival takes.
- **Ratios** are taken within a round, between two that ran next to each other; the figure is the
  median of these ratios.
- **Latency** is measured at a fixed rate, half of the throughput of the slowest peer, from the
  moment at which a request was due and not from when it could be sent.
- **Memory of idle connections** is the growth of anonymous and shared memory
  (`/proc/PID/smaps_rollup`, all processes) between a few and many open connections, each of which
  has had one request answered (HTTP) or one message echoed (TCP). After the reading every single
  connection must answer again. Memory that a program sets aside at its start is not in the growth;
  the whole is in the summary beside it. Socket buffers are the kernel's and in neither.
- **Bulk data** is counted as it arrives; answers that lie across the ends of the window count
  with the part that is in it.
- **Datagrams** carry their place in a sequence. A one-way stream is paced by its sink's
  acknowledgements, so that nobody's buffer overflows, and counted where it arrives.
- **Repeating it**: ratios are compared with those of the report before on the same machine. The
  summary says which differ by more than 5 %, and which rounds of this run disagree among themselves.
- **A round fails** on any answer other than 2xx, any short body, any socket error and any lost
  datagram. Failed rounds are listed in the summary and are in no median.
";

const CAVEATS: &str = "\
- Loopback flatters no one: most of the time goes into the kernel's TCP stack, which is the same
  for all, so differences between the programs look smaller than their own code differs. There is
  no network card, no interrupt, no distance.
- Generator and origins share one core and often need more of it than the balancer needs of its
  own. Then the throughput is theirs (the summary says in which rounds), and a balancer that is not
  fully loaded finds fewer events at a time. The CPU time per unit of work is the figure to compare.
- The peers are as their distribution ships them, with the settings below and no others: one
  worker, connections to the origins kept, no access log (but in l7-access-log). They add no
  `X-Forwarded-*` headers; `lb` always does.
- One worker on one core says nothing about how a program scales over many.
";

const FORWARDERS: &str = "\
The forwarder on several runtimes, taken in with `loadgen report DIR --forwarders forwarders.json`:

```sh
cargo run --release -p bench --bin forwarder-ab -- --json forwarders.json
```

";

/// The page of the report in `folder`.
pub fn render(record: &Record, folder: &Path) -> Result<String, Error> {
    let mut page = format!(
        "# Comparison of {}\n\nOne core each, side by side on one machine. \
         [Summary](summary.md) · [raw figures](raw.json)\n\n",
        record.date()
    );
    page += &machine(record);
    page += &programs(record);
    let _ = writeln!(page, "## How it was measured\n\n{}", method(record));
    let _ = writeln!(page, "## What to keep in mind\n\n{CAVEATS}");
    let _ = writeln!(
        page,
        "## Commands\n\nThe whole report:\n\n```sh\n{}\n```\n\nIt ran these, \
         each in a folder with the configurations of the next section:\n",
        record.command
    );
    for scenario in &record.scenarios {
        page += &commands(scenario);
    }
    if record.forwarders.is_some() {
        page += FORWARDERS;
    }
    page += &configurations(record, folder)?;
    Ok(page)
}

fn machine(record: &Record) -> String {
    let machine = &record.machine;
    let kind = if machine.virtual_machine {
        "a virtual machine"
    } else {
        "bare metal"
    };
    format!(
        "## Machine\n\n| | |\n| --- | --- |\n| processor | {}, {} cores, {kind} |\n\
         | memory | {} MiB |\n| kernel | Linux {} |\n| system | {} |\n\n",
        machine.cpu, machine.cores, machine.memory_mib, machine.kernel, machine.system
    )
}

fn programs(record: &Record) -> String {
    let mut text = String::from("## Programs\n\n| | |\n| --- | --- |\n");
    for peer in &record.peers {
        let _ = writeln!(text, "| {} | {} |", peer.name, peer.version);
    }
    let _ = writeln!(
        text,
        "| generator, origins | loadgen {} |",
        record.settings.generator_version
    );
    for absent in &record.absent {
        let _ = writeln!(text, "| {} | skipped: {} |", absent.name, absent.reason);
    }
    text + "\n"
}

fn method(record: &Record) -> String {
    let settings = &record.settings;
    METHOD
        .replace("{balancer}", &settings.balancer_cpu.to_string())
        .replace("{generator}", &settings.generator_cpu.to_string())
        .replace("{warmup}", &settings.warmup_s.to_string())
        .replace("{duration}", &settings.duration_s.to_string())
}

fn commands(scenario: &Scenario) -> String {
    let mut lines = vec!["# origins".to_owned(), scenario.origins_command.clone()];
    for setup in &scenario.setups {
        lines.push(format!("# {}", setup.peer));
        lines.push(setup.command.clone());
    }
    if !scenario.load_command.is_empty() {
        lines.push("# load".to_owned());
        lines.push(scenario.load_command.clone());
    }
    if let Some(fixed) = &scenario.fixed_rate {
        lines.push("# load at a fixed rate".to_owned());
        lines.push(fixed.load_command.clone());
    }
    format!("{}:\n\n```sh\n{}\n```\n\n", scenario.name, lines.join("\n"))
}

fn configurations(record: &Record, folder: &Path) -> Result<String, Error> {
    let setups = record
        .scenarios
        .iter()
        .flat_map(|scenario| &scenario.setups);
    let mut text = String::from("## Configurations\n\n");
    for name in setups.filter_map(|setup: &Setup| setup.configuration.as_deref()) {
        let path = folder.join(CONFIGURATIONS).join(name);
        let body = fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
        let _ = writeln!(text, "`{name}`:\n\n```\n{}\n```\n", body.trim_end());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn commands_and_configurations_stand_in_it() {
        let folder = std::env::temp_dir().join(format!("readme-{}", std::process::id()));
        fs::create_dir_all(folder.join(CONFIGURATIONS)).unwrap();
        fs::write(
            folder.join("configs/l7-keepalive.nginx.conf"),
            "worker_processes 1;\n",
        )
        .unwrap();
        let mut record = sample::record();
        record.scenarios[0].load_command = "loadgen run http://127.0.0.1:1".to_owned();
        record.scenarios[0].setups.push(Setup {
            peer: "nginx".to_owned(),
            command: "nginx -c l7-keepalive.nginx.conf".to_owned(),
            configuration: Some("l7-keepalive.nginx.conf".to_owned()),
        });
        let page = render(&record, &folder);
        fs::remove_dir_all(&folder).unwrap();
        let page = page.unwrap();
        for words in [
            "# nginx\nnginx -c",
            "worker_processes 1;",
            "loadgen run http",
            "core 0",
            "for 5 s",
        ] {
            assert!(page.contains(words), "{words} is missing in {page}");
        }
        assert!(!page.contains('{'), "a place that was not filled: {page}");
    }
}
