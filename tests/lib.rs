//! Code that the system tests (in `it/`), the fuzz targets (in `fuzz/`) and the program `licet-tests` share.

pub mod figures;
pub mod fuzzing;
pub mod page;
