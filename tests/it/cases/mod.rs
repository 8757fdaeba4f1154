//! The cases of users of other systems: one file for each case, one test for each fault, on both
//! pairs of services. The name of a test begins with the number of its case.

mod a07;
mod a08;
mod a09;
mod a13;
