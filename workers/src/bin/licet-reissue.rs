//! The program of the reissue worker.

fn main() -> std::process::ExitCode {
    licet_workers::worker_main(licet_workers::reissue::Reissue)
}
