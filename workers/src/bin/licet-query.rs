//! The program of the query worker.

fn main() -> std::process::ExitCode {
    licet_workers::worker_main(licet_workers::query::Query)
}
