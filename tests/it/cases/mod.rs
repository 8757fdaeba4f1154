//! Cases from the field: faults that users of other systems reported. Each test is named after the
//! number of its case.

mod a01;
mod a06;
mod a07;
mod a08;
mod a09;
mod a10;
mod a11;
mod a12;
mod a13;
mod b03;
mod b06;
mod b12;
mod b13;
mod b17;
mod refunds;
