//! The reissue worker.

use std::process::ExitCode;

fn main() -> ExitCode {
    licet_workers::program::worker_main("reissue")
}
