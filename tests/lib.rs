//! Code shared by the system tests (in `it/`), the fuzz targets (in `fuzz/`) and the program
//! `licet-tests`.

pub mod figures;
pub mod fuzzing;
pub mod page;
