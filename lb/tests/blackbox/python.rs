//! A Python with other people's clients and servers, which come from PyPI.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A Python that has `grpcio`, `hypercorn` (with `h2`) and `websockets`; made once and kept with what else was built.
///
/// # Errors
/// Why there is none.
pub(crate) fn python() -> Result<&'static Path, &'static str> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let packages = ["grpcio", "hypercorn", "websockets"];
    let python =
        PYTHON.get_or_init(|| make_python("python", &packages, "grpc, hypercorn, websockets"));
    python.as_deref().map_err(String::as_str)
}

/// A Python that has `autobahn` with what it needs of Twisted.
///
/// # Errors
/// Why there is none.
pub(crate) fn python_with_autobahn() -> Result<&'static Path, &'static str> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let packages = ["autobahn", "twisted", "pyopenssl", "service_identity"];
    let modules = "autobahn.twisted.websocket, OpenSSL";
    let python = PYTHON.get_or_init(|| make_python("python-autobahn", &packages, modules));
    python.as_deref().map_err(String::as_str)
}

/// A Python called `name` that has `packages`, from which it can import `modules`.
fn make_python(name: &str, packages: &[&str], modules: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join("bin/python");
    let has_all = || run(Command::new(&python).args(["-c", &format!("import {modules}")]));
    if has_all().is_ok() {
        return Ok(python);
    }
    let venv = ["-m", "venv", "--clear"];
    run(Command::new("python3").args(venv).arg(&folder))
        .and_then(|()| {
            let pip = ["-m", "pip", "install", "--quiet", "--only-binary=:all:"];
            run(Command::new(&python).args(pip).args(packages))
        })
        .and_then(|()| has_all())
        .map_err(|reason| format!("no {} from PyPI: {reason}", packages.join(", ")))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(said(&output)),
    }
}

/// What a program has printed.
pub(crate) fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr]
        .map(|it| String::from_utf8_lossy(it).into_owned())
        .concat()
}
