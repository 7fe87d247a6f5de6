//! The `loadgen` program: arguments in, exit status out.
//!
//! Invariant: exit status 2 is a wrong command line, 1 is everything else that went wrong.
//! Read next: `args/mod.rs`.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use loadgen::args::{Cli, Command, OriginArgs, RunArgs};
use loadgen::gate::Gate;
use loadgen::origin::{self, Origin};
use loadgen::run::{self, Progress, Summary};
use loadgen::run_report::RunReport;
use loadgen::{compare, descriptors, faults, mixed, report, strategies, truth};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Origin(args) => serve(&args),
        Command::Run(args) => load(&args),
        Command::Compare(args) => compare(&args),
        Command::Strategies(args) => strategies(&args),
        Command::Faults(args) => faults(&args),
        Command::Mixed(args) => mixed(&args),
        Command::Report(args) => report(&args),
        Command::Truth(args) => truth(&args),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("loadgen: {}", failure.message);
        ExitCode::from(failure.status)
    })
}

/// What to say, and the exit status.
struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    fn usage(message: String) -> Self {
        Self { message, status: 2 }
    }

    fn other(message: impl ToString) -> Self {
        Self {
            message: message.to_string(),
            status: 1,
        }
    }
}

fn serve(args: &OriginArgs) -> Result<ExitCode, Failure> {
    let config = origin::Config::try_from(args).map_err(Failure::usage)?;
    let stop = stop_on_signal().map_err(Failure::other)?;
    descriptors::raise_limit();
    let origin = Origin::start(&config).map_err(Failure::other)?;
    let mut ready = "ready".to_owned();
    let all = [
        ("http", origin.http()),
        ("https", origin.https()),
        ("tcp", origin.tcp()),
        ("udp", origin.udp()),
    ];
    for (kind, addresses) in all {
        for address in addresses {
            ready += &format!(" {kind}={address}");
        }
    }
    say(&mut io::stdout(), &format!("{ready}\n"));
    follow_slowness(&origin, args.slow_by, &stop).map_err(Failure::other)?;
    Ok(ExitCode::SUCCESS)
}

/// Slows the origin down at SIGUSR1, and lets it go at SIGUSR2, until `stop` is opened.
fn follow_slowness(origin: &Origin, slow_by: Duration, stop: &Gate) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut slower = signal(SignalKind::user_defined1())?;
        let mut usual = signal(SignalKind::user_defined2())?;
        loop {
            tokio::select! {
                _ = slower.recv() => origin.slow_down(slow_by),
                _ = usual.recv() => origin.slow_down(Duration::ZERO),
                () = stop.opened() => return Ok(()),
            }
        }
    })
}

fn load(args: &RunArgs) -> Result<ExitCode, Failure> {
    let config = run::Config::try_from(args).map_err(Failure::usage)?;
    let stop = stop_on_signal().map_err(Failure::other)?;
    descriptors::raise_limit();
    let mut progress = Progress::new(&config);
    let report = args.out.as_deref().map(RunReport::begin).transpose();
    let report = report.map_err(Failure::other)?;
    let summary = run::run(&config, &mut progress, &stop).map_err(Failure::other)?;
    if let Some(report) = report {
        report.write(summary.clone()).map_err(Failure::other)?;
    }
    match args.json.as_deref() {
        Some(path) if path == Path::new("-") => {
            say(&mut io::stderr(), &summary.to_string());
            write_json(&mut io::stdout(), &summary).map_err(Failure::other)?;
        }
        Some(path) => {
            say(&mut io::stdout(), &summary.to_string());
            let explain = |error| Failure::other(format!("{}: {error}", path.display()));
            let mut file = fs::File::create(path).map_err(explain)?;
            write_json(&mut file, &summary).map_err(explain)?;
        }
        None => say(&mut io::stdout(), &summary.to_string()),
    }
    let is_good = if args.strict {
        summary.is_clean()
    } else {
        summary.completed > 0
    };
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn compare(args: &compare::Args) -> Result<ExitCode, Failure> {
    let stop = stop_on_signal().map_err(Failure::other)?;
    let folder = compare::compare(args, &stop).map_err(Failure::other)?;
    println!("{}", folder.join("summary.md").display());
    Ok(ExitCode::SUCCESS)
}

fn mixed(args: &mixed::Args) -> Result<ExitCode, Failure> {
    let stop = stop_on_signal().map_err(Failure::other)?;
    descriptors::raise_limit();
    let (folder, is_good) = mixed::mixed(args, &stop).map_err(Failure::other)?;
    println!("{}", folder.join("summary.md").display());
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn strategies(args: &strategies::Args) -> Result<ExitCode, Failure> {
    let stop = stop_on_signal().map_err(Failure::other)?;
    let folder = strategies::strategies(args, &stop).map_err(Failure::other)?;
    println!("{}", folder.join("summary.md").display());
    Ok(ExitCode::SUCCESS)
}

fn faults(args: &faults::Args) -> Result<ExitCode, Failure> {
    let stop = stop_on_signal().map_err(Failure::other)?;
    let folder = faults::faults(args, &stop).map_err(Failure::other)?;
    println!("{}", folder.join("summary.md").display());
    Ok(ExitCode::SUCCESS)
}

fn report(args: &report::Args) -> Result<ExitCode, Failure> {
    report::report(args).map_err(Failure::other)?;
    println!("{}", args.folder.join("summary.md").display());
    Ok(ExitCode::SUCCESS)
}

fn truth(args: &truth::Args) -> Result<ExitCode, Failure> {
    let stop = stop_on_signal().map_err(Failure::other)?;
    let found = truth::check(args, &stop).map_err(Failure::other)?;
    say(&mut io::stdout(), &found.to_string());
    Ok(if found.is_right() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints to people; that nobody reads it any more is no failure.
fn say(out: &mut dyn Write, text: &str) {
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn write_json(out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, summary)?;
    writeln!(out)
}

/// A gate that the first SIGINT or SIGTERM opens; the second ends the process.
fn stop_on_signal() -> io::Result<Arc<Gate>> {
    let gate = Arc::new(Gate::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let opened = Arc::clone(&gate);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                for _ in 0..2 {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    opened.open();
                }
            });
            std::process::exit(1);
        })?;
    Ok(gate)
}
