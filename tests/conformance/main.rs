//! Replays recorded exchanges of the reference meta service.
//!
//! Every case agrees (see [`compare`]), or `deviations.txt` lists it with its reason. A listed case
//! that agrees after all fails as well, so that the list cannot go stale.
#![cfg(test)]

mod compare;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bugle_testkit::{Endpoint, Site, StartOptions};
use bytes::Bytes;
use compare::{Learnt, learn, shortcomings, substitute};
use http::Request;
use serde::Deserialize;

const CASES: &str = include_str!("openyuanrong.jsonl");
const DEVIATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/deviations.txt");

/// One request, and the answer that the reference gave.
#[derive(Deserialize)]
struct Case {
    id: String,
    note: String,
    method: String,
    path: String,
    headers: Option<BTreeMap<String, String>>,
    body: Option<String>,
    status: u16,
    resp_body: Option<String>,
}

#[tokio::test]
async fn every_recorded_exchange_agrees_or_is_listed_with_its_reason() {
    let site = Site::new();
    // On a host of the reference nobody makes pools real either.
    let options = StartOptions::default().config("pools", "backend", "none");
    let platform = site.start_with(&options).await;
    let deviations = deviations();
    let mut learnt = Learnt::new();
    let (mut agree, mut listed, mut report) = (0, 0, String::new());
    let cases = CASES
        .lines()
        .map(|line| serde_json::from_str::<Case>(line).unwrap());
    for case in cases {
        let (status, body) = send(platform.control, &case, &learnt).await;
        let recorded = case.resp_body.as_deref().unwrap_or("");
        learn(recorded, &body, &mut learnt);
        let found = shortcomings((case.status, recorded), (status, &body));
        match (found.is_empty(), deviations.contains_key(case.id.as_str())) {
            (true, false) => agree += 1,
            (false, true) => listed += 1,
            (true, true) => writeln!(report, "{}: listed, but agrees", case.id).unwrap(),
            (false, false) => {
                let Case {
                    id,
                    note,
                    method,
                    path,
                    ..
                } = &case;
                writeln!(report, "{id} ({note}): {method} {path}").unwrap();
                for line in found {
                    writeln!(report, "    {line}").unwrap();
                }
            }
        }
    }
    println!("{agree} agree, {listed} differ on purpose");
    assert!(
        report.is_empty(),
        "{agree} agree, {listed} differ on purpose, and:\n{report}"
    );
    platform.kill().await;
}

#[test]
fn every_deviation_is_a_case_and_has_a_reason() {
    for (id, reason) in deviations() {
        assert!(
            CASES.contains(&format!("\"id\": \"{id}\"")),
            "{id} is no case"
        );
        assert!(reason.len() > 10, "{id} has no reason");
    }
}

async fn send(control: Endpoint, case: &Case, learnt: &Learnt) -> (u16, String) {
    let body = case
        .body
        .as_deref()
        .map(|body| substitute(body, learnt))
        .unwrap_or_default();
    let mut request = Request::builder()
        .method(case.method.as_str())
        .uri(substitute(&case.path, learnt));
    for (name, value) in case.headers.iter().flatten() {
        request = request.header(name, value);
    }
    match control.send(request.body(Bytes::from(body)).unwrap()).await {
        Ok(answer) => (answer.status, answer.text()),
        Err(error) => (0, error),
    }
}

/// Case and reason of every deviation.
fn deviations() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(DEVIATIONS).expect("the list of deviations is there");
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .map(|(id, reason)| (id.to_owned(), reason.trim().to_owned()))
        .collect()
}
