//! The program of the license worker.

fn main() -> std::process::ExitCode {
    licet_workers::worker_main(licet_workers::license::License)
}
