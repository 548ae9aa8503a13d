//! The command: parse, dispatch, and turn an error into words and an exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use treering::Error;
use treering::guard::is_guarded;
use treering::memory::HugePages;

#[global_allocator]
static ALLOCATOR: HugePages = HugePages;

fn main() -> ExitCode {
    let report = std::panic::take_hook();
    // What a library says of a damaged file by panicking becomes an error with the file's name.
    std::panic::set_hook(Box::new(move |info| {
        if !is_guarded() {
            report(info);
        }
    }));
    let command = cli::Cli::parse().command;
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            cli::report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Whether the reader of our output went away (`treering … | head`), which is no failure of ours.
fn is_broken_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
}
