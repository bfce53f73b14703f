//! One file for each command.

pub(crate) mod bench;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod delete;
pub(crate) mod deploy;
pub(crate) mod describe;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod image;
pub(crate) mod import;
pub(crate) mod invoke;
pub(crate) mod list;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod member;
pub(crate) mod new;
pub(crate) mod node;
pub(crate) mod pool;
pub(crate) mod publish;
pub(crate) mod reserve;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod update;
