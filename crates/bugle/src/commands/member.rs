//! `bugle member`: the gateways that share the functions of one etcd.

use bugle_api::members::MemberObject;
use clap::{Args, Subcommand};

use crate::failure::Outcome;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bugle member list")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Lists the gateways that share the functions.
    List,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    match arguments.command {
        Command::List => list(session).await,
    }
}

async fn list(session: &Session) -> Outcome {
    let list = session.perform(session.control.members()).await?;
    output::show(session.format, &list, || {
        output::table(
            ["MEMBER", "ADDRESS", "STATE", "HOST"],
            list.members.iter().map(row),
        )
    })?;
    if list.members.is_empty() {
        session.note("no members: this gateway works alone");
    }
    Ok(())
}

fn row(member: &MemberObject) -> [String; 4] {
    let here = if member.here { " (this one)" } else { "" };
    [
        member.id.clone(),
        member.address.clone(),
        format!("{}{here}", member.state),
        member.host.clone(),
    ]
}
