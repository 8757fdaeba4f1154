//! The program of the catalog worker.

fn main() -> std::process::ExitCode {
    licet_workers::worker_main(licet_workers::catalog::Catalog)
}
