//! `bugle node`: hosts instances for a platform on another machine, and looks after such nodes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bugle_api::nodes::{NodeObject, NodeTokenRequest};
use bugle_server::node::{NodeError, NodeOptions, PodOptions};
use bugle_server::{JoinToken, NodeId};
use bugle_types::pool::{PoolGroup, PoolId, label_key, label_value};
use bugle_types::report;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::commands::serve;
use crate::failure::{Failure, Outcome, exit};
use crate::names;
use crate::numbers;
use crate::output;
use crate::session::Session;
use crate::settings::Settings;

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  bugle node token
  bugle node --join platform.example:31183 --token bugle-node-…
  bugle node list
  bugle node drain worker-1"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    node: Node,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Prints a token with which one node may join, once.
    Token(Token),
    /// Lists the nodes.
    List,
    /// Moves everything away from a node; calls that run finish there.
    Drain(Name),
    /// Lets a node that was drained have instances again.
    Resume(Name),
    /// Forgets a node; its certificate is worth nothing any more.
    Remove(Name),
}

#[derive(Args, Debug)]
struct Token {
    /// How long it holds, in minutes; 15 when not given.
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u32>,
}

#[derive(Args, Debug)]
struct Name {
    /// The node.
    #[arg(value_parser = names::given)]
    name: String,
}

/// What a node is told.
#[derive(Args, Debug)]
struct Node {
    /// Address on which the platform waits for nodes; a node that has joined remembers it.
    #[arg(long, value_name = "ADDRESS")]
    join: Option<String>,
    /// Token of the platform, for the first time.
    #[arg(
        long,
        env = "BUGLE_NODE_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    token: Option<String>,
    /// File with the token of a Pod pool; with --pod.
    #[arg(long, value_name = "FILE", requires = "pod", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Uid of the Pod that this node is; it joins with the token of its pool, and asks until it is let in.
    #[arg(long, value_name = "UID", requires = "token_file", requires = "join")]
    pod: Option<String>,
    /// Name of the node; that of the machine when not given.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Thousandths of a core for instances; all of the machine's when not given.
    #[arg(long, value_name = "MILLICORES", value_parser = numbers::from::<1, u64>)]
    cpu: Option<u64>,
    /// MiB for instances; all of the machine's when not given.
    #[arg(long, value_name = "MIB", value_parser = numbers::from::<1, u64>)]
    memory: Option<u64>,
    /// Another resource or device, such as GPU/A100/count=4; may be given more than once.
    #[arg(long, value_name = "NAME=AMOUNT")]
    resource: Vec<String>,
    /// A label; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// File with more labels, as a Pod sees its own: a line KEY="VALUE" for each.
    #[arg(long, value_name = "FILE")]
    label_file: Option<PathBuf>,
    /// Port at which it answers /healthz and /readyz, on all addresses.
    #[arg(long, value_name = "PORT")]
    health_port: Option<u16>,
    /// The Pod pool that it is of.
    #[arg(long, value_name = "POOL")]
    pool: Option<PoolId>,
    /// The group of nodes that it is of.
    #[arg(long, value_name = "GROUP")]
    group: Option<PoolGroup>,
    #[command(flatten)]
    settings: Settings,
}

impl Arguments {
    /// Whether it is this process that shall be a node.
    pub(crate) fn runs_here(&self) -> bool {
        self.command.is_none()
    }
}

/// Runs a node until it is asked to stop.
pub(crate) fn host(arguments: &Arguments) -> Outcome {
    let node = &arguments.node;
    let options = options(node)?;
    let config = node.settings.load()?.config;
    serve::log(&config)?;
    serve::runtime()?.block_on(async {
        // Before anything is started, so that no signal is missed.
        let asked = serve::asked_to_stop()?;
        let ran = bugle_server::node::run(config, options, asked).await;
        ran.map_err(|error| match error {
            NodeError::NotJoined => Failure::usage(report(&error)),
            error => Failure::new(exit::REFUSED, report(&error)),
        })
    })
}

fn options(node: &Node) -> Outcome<NodeOptions> {
    let chosen = node.name.is_some();
    let name = node.name.clone().unwrap_or_else(machine);
    let name: NodeId = name
        .parse()
        .map_err(|error| Failure::usage(format!("--name: {}", report(&error))))?;
    let token = node.token.as_deref().map(str::parse::<JoinToken>);
    let token = token
        .transpose()
        .map_err(|error| Failure::usage(format!("--token: {error}")))?;
    let mut custom = BTreeMap::new();
    for resource in &node.resource {
        let (name, amount) = pair("--resource", resource)?;
        let thousandths = thousandths(&amount).ok_or_else(|| {
            Failure::usage(format!(
                "--resource {name}: {amount} is no amount above zero"
            ))
        })?;
        custom.insert(name, thousandths);
    }
    let pod = node.pod.clone().zip(node.token_file.clone());
    Ok(NodeOptions {
        name,
        chosen,
        platform: node.join.clone(),
        token,
        cpu: node.cpu,
        memory: node.memory,
        custom,
        labels: labels(node)?,
        pool: node.pool.clone().map(String::from),
        group: node.group.clone().map(String::from),
        pod: pod.map(|(uid, token_file)| PodOptions { uid, token_file }),
        health_port: node.health_port,
    })
}

/// The labels of the file, and those of flags, which win.
fn labels(node: &Node) -> Outcome<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    if let Some(file) = &node.label_file {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
        let read = text.and_then(|text| labels_of(&text));
        labels =
            read.map_err(|why| Failure::usage(format!("--label-file {}: {why}", file.display())))?;
    }
    for text in &node.label {
        let (key, value) = pair("--label", text)?;
        let known = label(key, value);
        let (key, value) = known.map_err(|why| Failure::usage(format!("--label: {why}")))?;
        labels.insert(key, value);
    }
    Ok(labels)
}

/// Labels as a Pod's volume has them, a line each. They have no characters that would have to be escaped.
fn labels_of(text: &str) -> Result<BTreeMap<String, String>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let known = line.split_once('=');
            let (key, value) = known.ok_or_else(|| format!("{line:?} is not KEY=\"VALUE\""))?;
            let value = value.trim_matches('"');
            label(key.to_owned(), value.to_owned())
        })
        .collect()
}

/// A label that keeps the rules.
fn label(key: String, value: String) -> Result<(String, String), String> {
    let rules = [
        ("key", &key, label_key(&key)),
        ("value", &value, label_value(&value)),
    ];
    for (part, text, rule) in rules {
        rule.map_err(|rule| format!("the {part} {text:?} {rule}"))?;
    }
    Ok((key, value))
}

fn pair(flag: &str, text: &str) -> Outcome<(String, String)> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| Failure::usage(format!("{flag} takes KEY=VALUE, not {text:?}")))
}

/// An amount with up to three decimals.
fn thousandths(text: &str) -> Option<i64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let fraction = format!("{rest:0<3}");
    if fraction.len() != 3 {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let amount = whole.checked_mul(1000)? + fraction.parse::<i64>().ok()?;
    (amount > 0 && whole >= 0).then_some(amount)
}

/// The machine's name, as far as it is one of a node.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let name = name.trim().to_ascii_lowercase();
    let name: String = name.chars().filter(|c| fits(*c)).take(63).collect();
    name.trim_matches(['-', '.']).to_owned()
}

/// Talks to the platform about its nodes.
pub(crate) async fn run(session: &Session, arguments: &Arguments) -> Outcome {
    match &arguments.command {
        Some(Command::Token(token)) => make_token(session, token).await,
        Some(Command::List) | None => list(session).await,
        Some(Command::Drain(Name { name })) => {
            session.perform(session.control.drain_node(name)).await?;
            done(
                session,
                name,
                "is being drained; `bugle node list` shows what is left on it",
            )
        }
        Some(Command::Resume(Name { name })) => {
            session.perform(session.control.resume_node(name)).await?;
            done(session, name, "gets instances again")
        }
        Some(Command::Remove(Name { name })) => {
            session.perform(session.control.remove_node(name)).await?;
            done(session, name, "is removed")
        }
    }
}

fn done(session: &Session, name: &str, what: &str) -> Outcome {
    output::show(session.format, &json!({"name": name}), || {
        format!("{name} {what}")
    })
}

async fn make_token(session: &Session, Token { minutes }: &Token) -> Outcome {
    let request = NodeTokenRequest { minutes: *minutes };
    let token = session
        .perform(session.control.node_token(&request))
        .await?;
    output::show(session.format, &token, || token.token.clone())?;
    session.note(&format!(
        "it admits one node, once; on the other machine: bugle node --join {} --token TOKEN",
        token.address
    ));
    Ok(())
}

async fn list(session: &Session) -> Outcome {
    let list = session.perform(session.control.nodes()).await?;
    output::show(session.format, &list, || {
        output::table(
            ["NAME", "STATE", "CPU", "MEMORY", "INSTANCES", "GROUP"],
            list.nodes.iter().map(row),
        )
    })?;
    if list.nodes.is_empty() {
        session.note("no nodes: everything runs on the platform's own machine");
    }
    Ok(())
}

fn row(node: &NodeObject) -> [String; 6] {
    [
        node.name.clone(),
        node.state.clone(),
        format!("{}/{}m", node.cpu_used, node.cpu),
        format!("{}/{} MiB", node.memory_used, node.memory),
        node.instances.to_string(),
        node.group.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        node: Node,
    }

    #[test]
    fn what_no_node_can_be_is_refused_before_it_starts() {
        let read = |flag: &str, value: &str| {
            let line = Line::try_parse_from(["node", flag, value]);
            let line = line.map_err(|error| error.to_string())?;
            options(&line.node).map_err(|failure| format!("{failure:?}"))
        };
        for (flag, value, rule) in [
            ("--cpu", "0", "not in 1.."),
            ("--memory", "0", "not in 1.."),
            ("--pool", "Bad", "lower-case letters"),
            ("--group", "Ünï", "letters, digits or '-'"),
            ("--group", "", "letters, digits or '-'"),
            ("--label", "zone a=b", "DNS name"),
            ("--label", "zone=a/b", "letter or digit at both ends"),
        ] {
            let refused = read(flag, value).expect_err(value);
            assert!(refused.contains(rule), "{flag} {value}: {refused}");
        }
        for (flag, value) in [("--cpu", "1"), ("--group", "Gold"), ("--label", "zone=")] {
            read(flag, value).expect(flag);
        }
    }

    #[test]
    fn labels_are_read_as_a_pod_sees_them_and_keep_their_rules() {
        let labels = labels_of("tier=\"web\"\nbugle/pool=\"p1\"\n\nempty=\"\"\nplain=yes").unwrap();
        let expected = [
            ("bugle/pool", "p1"),
            ("empty", ""),
            ("plain", "yes"),
            ("tier", "web"),
        ];
        let labels: Vec<(&str, &str)> = labels
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        assert_eq!(labels, expected);
        for (text, rule) in [
            ("a=\"1\"\nnothing", "\"nothing\""),
            ("zone a=\"b\"", "DNS name"),
            ("zone=\"a/b\"", "letter or digit at both ends"),
            ("=\"b\"", "the key \"\""),
        ] {
            let refused = labels_of(text).expect_err(text);
            assert!(refused.contains(rule), "{text}: {refused}");
        }
    }

    #[test]
    fn amounts_are_read_in_thousandths() {
        for (text, amount) in [("4", 4000), ("0.5", 500), ("1.25", 1250)] {
            assert_eq!(thousandths(text), Some(amount), "{text}");
        }
        for text in ["", "0", "-1", "1.2345", "x", "1e3"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }
}
