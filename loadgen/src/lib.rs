//! Origins, a load generator, comparison of balancers, and reports.
#![forbid(unsafe_code)]
pub mod report;
