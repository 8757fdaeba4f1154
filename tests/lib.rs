//! What Licet's tests over whole systems share with the tool `licet-tests`. The tests are in `it/`.

pub mod figures;
pub mod fuzzing;
pub mod page;
