//! Calls to an instance that is there: beside the same handler in servers that are called directly.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::ensure;

use crate::Effort;
use crate::figures::Figures;
use crate::load::{self, Round, Until, Whole as _};
use crate::peers::{Kind, Peer};
use crate::platform::{Folders, Platform};
use crate::processes;

/// 90 bytes, as in the research that the goals come from.
pub(crate) const EVENT: &str =
    r#"{"name": "bugle", "numbers": [1, 2, 3, 4, 5], "nested": {"key": "value", "flag": true}}"#;

/// Somebody who answers calls.
type Contender = (SocketAddr, String);

/// What is made of a round.
type Value = fn(&Round) -> f64;

/// Bugle and uvicorn in turn.
pub(crate) fn warm(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let path = platform.register("0@bench@warm", &folders.function("warm")?)?;
    let peer = Peer::start(Kind::Uvicorn, &folders.code)?;
    let contenders = [(platform.gateway, path), (peer.address, "/".to_owned())];
    for contender in &contenders {
        answers(contender)?;
    }
    let (p50, p99): (Value, Value) = (p50, p99);
    for (connections, ratio_name) in [
        (1, "warm_rps_ratio_c1"),
        (16, "warm_rps_ratio_c16"),
        (64, "warm_rps_ratio_c64"),
    ] {
        let pairs = interleaved(&contenders, connections, effort)?;
        let side = |side: usize, value: Value| pairs.iter().map(move |pair| value(&pair[side]));
        let ratio = |value| side(0, value).zip(side(1, value)).map(|(a, b)| a / b);
        let mut add = |name: &str, unit, what: &str, rounds: Vec<f64>| {
            let plural = if connections == 1 { "" } else { "s" };
            let what = format!("{what}, {connections} connection{plural}");
            figures.add(name, unit, what, rounds);
        };
        let what = "calls/s ÷ uvicorn's";
        add(ratio_name, "", what, ratio(Round::rate).collect());
        if connections == 1 {
            let what = "p50 of a call ÷ uvicorn's";
            add("warm_p50_ratio_c1", "", what, ratio(p50).collect());
            for (name, what, of, value) in [
                ("warm_p50_ms_c1", "p50 of a call", 0, p50),
                ("uvicorn_p50_ms_c1", "p50 of uvicorn", 1, p50),
                ("warm_p99_ms_c1", "p99 of a call", 0, p99),
                ("uvicorn_p99_ms_c1", "p99 of uvicorn", 1, p99),
            ] {
                add(name, "ms", what, side(of, value).collect());
            }
        } else {
            let name = format!("warm_rps_c{connections}");
            add(&name, "/s", "calls", side(0, Round::rate).collect());
            let name = format!("uvicorn_rps_c{connections}");
            add(&name, "/s", "uvicorn", side(1, Round::rate).collect());
        }
    }
    Ok(())
}

/// Further servers, one after the other.
pub(crate) fn peers(_: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    for kind in Kind::FURTHER {
        let peer = Peer::start(kind, &folders.code)?;
        let contender = (peer.address, "/".to_owned());
        answers(&contender)?;
        let answered = peer.begin.elapsed().as_secs_f64() * 1e3;
        let peer_name = kind.name();
        let mut add = |figure: &str, unit, what: &str, rounds| {
            let name = format!("peer_{peer_name}_{figure}");
            figures.add(name, unit, format!("{peer_name}: {what}"), rounds);
        };
        for connections in [1, 16, 64] {
            let _warm_up = round(&contender, connections, effort.peer_round / 2)?;
            let rounds = (0..effort.peer_rounds)
                .map(|_| round(&contender, connections, effort.peer_round))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let micros = |value: Value| rounds.iter().map(|round| value(round) * 1e3).collect();
            if connections == 1 {
                add("p50_us", "µs", "p50 of a call, 1 connection", micros(p50));
                add("p99_us", "µs", "p99 of a call, 1 connection", micros(p99));
            } else {
                let figure = format!("rps_c{connections}");
                let what = format!("calls, {connections} connections");
                add(
                    &figure,
                    "/s",
                    &what,
                    rounds.iter().map(Round::rate).collect(),
                );
            }
        }
        let what = "start of the process to the first answer";
        add("start_ms", "ms", what, vec![answered]);
        let memory = processes::rss_mib(peer.pid())?;
        add(
            "rss_mb",
            "MiB",
            "all its processes, after these calls",
            vec![memory],
        );
    }
    Ok(())
}

pub(crate) fn p50(round: &Round) -> f64 {
    round.tally.latencies.quantile_ms(0.5)
}

fn p99(round: &Round) -> f64 {
    round.tally.latencies.quantile_ms(0.99)
}

/// Makes sure that the contender does what is measured.
fn answers((address, path): &Contender) -> anyhow::Result<()> {
    let (status, body) = load::once(*address, &load::request(address, path, Some(EVENT)))?;
    ensure!(
        status == 200 && body.replace(' ', "").trim() == r#"{"ok":true}"#,
        "{status}: {body}"
    );
    Ok(())
}

/// Rounds of both contenders in turn, after a round that does not count.
pub(crate) fn interleaved(
    contenders: &[Contender; 2],
    connections: usize,
    effort: Effort,
) -> anyhow::Result<Vec<[Round; 2]>> {
    let side = |contender| round(contender, connections, effort.round);
    let pair = || Ok([side(&contenders[0])?, side(&contenders[1])?]);
    let _warm_up: [Round; 2] = pair()?;
    (0..effort.pairs).map(|_| pair()).collect()
}

fn round(
    (address, path): &Contender,
    connections: usize,
    lasting: std::time::Duration,
) -> anyhow::Result<Round> {
    let request = load::request(address, path, Some(EVENT));
    let until = Until::Elapsed(lasting);
    load::closed_loop(*address, connections, until, move |_| request.clone())?.whole()
}

/// Calls a second of the open loop: about a fifth of what one connection can do, so that queueing
/// comes from stalls and not from load.
const STEADY_RATE: u32 = 1000;
const STEADY_CONNECTIONS: usize = 16;

/// Bugle and uvicorn in turn at a rate that both can serve.
pub(crate) fn steady(binary: &Path, effort: Effort, figures: &mut Figures) -> anyhow::Result<()> {
    let folders = Folders::new()?;
    let platform = Platform::start(binary, &folders.data, &folders.code)?;
    let path = platform.register("0@bench@steady", &folders.function("steady")?)?;
    let peer = Peer::start(Kind::Uvicorn, &folders.code)?;
    let side = |address: SocketAddr, path: &str| {
        let request = load::request(address, path, Some(EVENT));
        let lasting = effort.round;
        load::open_loop(address, STEADY_RATE, lasting, STEADY_CONNECTIONS, &request)?.whole()
    };
    let pair = || -> anyhow::Result<[Round; 2]> {
        Ok([side(platform.gateway, &path)?, side(peer.address, "/")?])
    };
    let _warm_up = pair()?;
    let pairs: Vec<_> = (0..effort.pairs)
        .map(|_| pair())
        .collect::<Result<_, _>>()?;
    let side = |side: usize, value: Value| pairs.iter().map(move |pair| value(&pair[side]));
    let what = "p50 from the due time, 1,000 calls/s, open loop";
    figures.add("steady_p50_ms", "ms", what, side(0, p50).collect());
    let what = "the same, 99th percentile";
    figures.add("steady_p99_ms", "ms", what, side(0, p99).collect());
    let ratios = side(0, p99).zip(side(1, p99)).map(|(a, b)| a / b);
    let what = "the same ÷ uvicorn's";
    figures.add("steady_p99_ratio", "", what, ratios.collect());
    Ok(())
}
