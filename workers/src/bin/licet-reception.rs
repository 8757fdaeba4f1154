//! The program of the reception worker.

fn main() -> std::process::ExitCode {
    licet_workers::worker_main(licet_workers::reception::Reception)
}
