//! The program of the settlement worker.

fn main() -> std::process::ExitCode {
    licet_workers::worker_main(licet_workers::settlement::Settlement)
}
