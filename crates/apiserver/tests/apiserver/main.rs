//! The server as its clients see it.
#![cfg(test)]

mod behaviour;
mod http;
mod replay;
