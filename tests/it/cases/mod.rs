//! Cases that users of other systems reported. Each test is named by the number of its case.

mod a10;
mod a11;
mod a12;
