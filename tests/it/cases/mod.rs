//! The cases of faults in other systems, one file each. The name of a test begins with the number of
//! its case.

mod a01;
