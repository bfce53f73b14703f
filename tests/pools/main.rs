//! Pod pools on one machine: what the interface promises, and that workers are real.
#![cfg(test)]

mod interface;
mod support;
mod workers;
