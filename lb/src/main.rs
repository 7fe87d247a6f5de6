#![forbid(unsafe_code)]
mod args;
mod config;
fn main() {
    let cli = args::Cli::from_arguments(std::env::args_os().collect());
    match cli {
        Err((t, c)) => {
            eprint!("{t}");
            std::process::exit(c.into())
        }
        Ok(cli) => match cli.run.sources().load() {
            Ok(d) => println!("{d:#?}"),
            Err(p) => {
                for p in p {
                    println!("{p}")
                }
            }
        },
    }
}
