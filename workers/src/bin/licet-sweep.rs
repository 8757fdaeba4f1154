//! The program of the sweep worker.

fn main() -> std::process::ExitCode {
    licet_workers::worker_main(licet_workers::sweep::Sweep)
}
