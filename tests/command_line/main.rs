//! The command line as people and scripts use it: what it prints where, how it ends, and what it
//! says to somebody who is wrong.
#![cfg(test)]

mod answers;
mod bench;
mod commands;
mod console;
mod curl;
mod follow;
mod mistakes;
mod pools;
mod settings;
