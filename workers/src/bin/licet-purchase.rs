//! The program of the purchase worker.

fn main() -> std::process::ExitCode {
    licet_workers::worker_main(licet_workers::purchase::Purchase::default())
}
