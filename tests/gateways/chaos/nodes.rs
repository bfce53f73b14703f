//! The same with nodes, each in a network namespace of its own.

use bugle_testkit::{Node, Site, node_token, until_node_lives, with_nodes};

use super::*;
use crate::wires::Wires;

const NODES: usize = 20;

/// The port on which the first gateway waits for nodes; the others have those after it. The address is
/// this test's alone.
const PORT: usize = 31183;

/// The nodes, and what connects them.
struct Fleet<'a> {
    wires: &'a Wires,
    site: Site,
    code: String,
    nodes: Vec<Option<Node>>,
    kills: usize,
    cuts: usize,
}

fn name(number: usize) -> String {
    format!("node{number}")
}

impl<'a> Fleet<'a> {
    async fn join(wires: &'a Wires, gates: &Gates, platforms: &[Platform]) -> Self {
        let mut fleet = Self {
            wires,
            site: Site::new(),
            code: gates.site(0).code_root().display().to_string(),
            nodes: Vec::new(),
            kills: 0,
            cuts: 0,
        };
        for number in 0..wires.count() {
            let (token, address) = node_token(&platforms[number % platforms.len()]).await;
            let join = ["--join", &address, "--token", &token];
            fleet.nodes.push(Some(fleet.start(number, &join)));
        }
        for platform in platforms {
            fleet.until_all_live(platform).await;
        }
        fleet
    }

    fn start(&self, number: usize, join: &[&str]) -> Node {
        let own = ["--cpu", "1000", "--code-root", &self.code];
        let command = self.wires.enter(number);
        Node::run(command, &self.site, &name(number), &[&own, join].concat())
    }

    async fn until_all_live(&self, platform: &Platform) {
        for number in 0..self.wires.count() {
            until_node_lives(platform, &name(number)).await;
        }
    }

    /// Kills nodes and cuts cables until the time is over; then all is whole again.
    async fn trouble(mut self, mut dice: Dice, span: Duration) -> Self {
        let until = Instant::now() + span;
        // What is to be undone, and when.
        let mut broken: Vec<(Instant, usize, bool)> = Vec::new();
        while Instant::now() < until || !broken.is_empty() {
            sleep(dice.millis(50, 600)).await;
            let over = Instant::now() >= until;
            for (at, number, was_cut) in std::mem::take(&mut broken) {
                if at > Instant::now() && !over {
                    broken.push((at, number, was_cut));
                } else if was_cut {
                    self.wires.mend(number);
                } else {
                    self.nodes[number] = Some(self.start(number, &[]));
                }
            }
            let victim = dice.below(self.nodes.len());
            if over || broken.iter().any(|(_, number, _)| *number == victim) {
                continue;
            }
            let back = Instant::now() + dice.millis(100, 6000);
            let is_cut = dice.below(2) == 0;
            if is_cut {
                println!("cutting node {victim} off");
                self.wires.cut(victim);
                self.cuts += 1;
            } else if let Some(node) = self.nodes[victim].take() {
                println!("killing node {victim}");
                node.kill().await;
                self.kills += 1;
            }
            broken.push((back, victim, is_cut));
        }
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_and_nodes_that_die_at_random_answer_each_call_once_within_the_limits() {
    let wires = Wires::new(NODES);
    let mut gates = Gates::new(3).await;
    let (seed, span) = chosen();
    let doors = Doors::new(vec![None; 3].into());
    let here = wires.here();
    // A gateway that comes back is where it was.
    let options: &Options = &move |gates, number| {
        let listen = format!("{here}:{}", PORT + number);
        with_nodes(gates.options()).config("nodes", "listen", &listen)
    };
    let mut platforms = Vec::new();
    for number in 0..3 {
        platforms.push(started(&gates, number, &doors, options).await);
    }
    until_members(&platforms.iter().collect::<Vec<_>>()).await;
    let fleet = Fleet::join(&wires, &gates, &platforms).await;
    let (spec, functions, referee) = functions(&gates, &platforms, (6, "2")).await;
    let load = Load::new(&doors, spec, &functions);
    let (platforms, mut fleet) = tokio::join!(
        trouble(&mut gates, platforms, &doors, options, (Dice(seed), span)),
        fleet.trouble(Dice(seed ^ 1), span),
    );
    let (answers, written) = load.end().await;
    until_members(&platforms.iter().collect::<Vec<_>>()).await;
    println!("{} nodes were killed, {} cut off", fleet.kills, fleet.cuts);
    judge(&answers, &referee.seen, 2);
    for platform in &platforms {
        fleet.until_all_live(platform).await;
    }
    all_is_well(&platforms, &functions, &written).await;
    drop(referee);
    for platform in platforms {
        platform.finish().await;
    }
    for node in fleet.nodes.drain(..).flatten() {
        node.kill().await;
    }
}
