//! The program of the return worker.

fn main() -> std::process::ExitCode {
    licet_workers::worker_main(licet_workers::returns::Returns)
}
