//! Pod pools on one machine and on a cluster: what the interface promises, and that workers are real.
#![cfg(test)]

mod cluster;
mod interface;
mod support;
mod workers;
