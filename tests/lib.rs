//! Licet's tests over whole systems live in `it/`; this library is empty.
