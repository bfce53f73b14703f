//! `bugle login` and `bugle logout`: credentials for registries of images.

use std::io::{IsTerminal as _, Read as _};

use bugle_api::images::LoginRequest;
use clap::Args;
use console::Term;

use crate::failure::{Failure, Outcome, exit};
use crate::session::Session;

/// The longest password that is read.
const LONGEST: u64 = 16 << 10;

#[derive(Args, Debug)]
#[command(
    after_help = "The platform asks the registry, and keeps what it accepts sealed in its data folder. At a terminal,
the name and the password are asked for; the password is not shown.

Examples:
  bugle login registry.example.com
  echo \"$TOKEN\" | bugle login --username me --password-stdin registry.example.com"
)]
pub(crate) struct Arguments {
    /// The registry, for instance registry.example.com:5000; docker.io is the public one.
    registry: String,
    /// The name.
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Reads the password from standard input.
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bugle logout registry.example.com")]
pub(crate) struct Out {
    /// The registry.
    registry: String,
}

pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    let Arguments {
        registry,
        username,
        password_stdin,
    } = arguments;
    let input = std::io::stdin();
    let (username, password) = if !password_stdin && input.is_terminal() {
        typed(registry, username.as_deref())?
    } else {
        let mut lines = input.lock().take(LONGEST);
        let username = match username {
            Some(username) => username.clone(),
            // As `printf 'NAME\nPASSWORD\n'` writes them.
            None => line(&mut lines)?,
        };
        (username, line(&mut lines)?)
    };
    let request = LoginRequest {
        registry: registry.clone(),
        username,
        password,
    };
    if session.curl {
        // The password is not for the screen.
        let request = LoginRequest {
            password: "PASSWORD".to_owned(),
            ..request
        };
        let login = session.control.log_in(&request);
        return Session::show_curl(&login.base, &login.call, None);
    }
    session.control.log_in(&request).send().await?;
    session.note(&format!("logged in to {registry}"));
    Ok(())
}

/// Asks whoever sits at the terminal. The password is not shown.
fn typed(registry: &str, username: Option<&str>) -> Outcome<(String, String)> {
    let terminal = Term::stderr();
    let failed = |error| Failure::new(exit::REFUSED, format!("the terminal: {error}"));
    let ask = |what: &str| {
        let asked = terminal.write_str(&format!("{what} for {registry}: "));
        asked.and_then(|()| terminal.flush()).map_err(failed)
    };
    let username = if let Some(username) = username {
        username.to_owned()
    } else {
        ask("name")?;
        line(&mut std::io::stdin().lock())?
    };
    ask("password")?;
    let password = terminal.read_secure_line().map_err(failed)?;
    if username.is_empty() || password.is_empty() {
        let text = "a name and a password are needed";
        return Err(Failure::usage(text).hint(format!(
            "`bugle login --username NAME --password-stdin {registry} < FILE` reads the password \
             from a file"
        )));
    }
    Ok((username, password))
}

fn line(input: &mut impl std::io::BufRead) -> Outcome<String> {
    let mut text = String::new();
    let read = input.read_line(&mut text);
    read.map_err(|error| Failure::new(exit::REFUSED, format!("standard input: {error}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

pub(crate) async fn log_out(session: &Session, Out { registry }: &Out) -> Outcome {
    session.perform(session.control.log_out(registry)).await?;
    session.note(&format!("logged out of {registry}"));
    Ok(())
}
