//! The loops against a server that does what a test tells it to.
#![cfg(test)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bugle_load::{Backlog, Kind, Loop, Round, Schedule, Until, Watch, closed, open, request};

const WARM: &str = "HTTP/1.1 200 OK\r\nx-inner-code: 0\r\nx-invoke-summary: {\"start\":\"warm\"}\r\n\
                    content-length: 2\r\n\r\n{}";
const REFUSED: &str = "HTTP/1.1 429 Too Many Requests\r\nx-inner-code: 150429\r\nretry-after: 1\r\n\
                       content-length: 4\r\n\r\nfull";

/// Answers the request with this number, or closes the connection; numbers count from 0.
fn server(answer: impl Fn(u64) -> Option<&'static str> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Arc::new((AtomicU64::new(0), answer));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
            thread::spawn(move || serve(stream, &shared.0, &shared.1));
        }
    });
    address
}

/// A request comes in one piece: it is short.
fn serve(mut stream: TcpStream, next: &AtomicU64, answer: &impl Fn(u64) -> Option<&'static str>) {
    let mut piece = [0; 1024];
    while stream.read(&mut piece).is_ok_and(|read| read > 0) {
        match answer(next.fetch_add(1, Ordering::Relaxed)) {
            Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
            None => return,
        }
    }
}

fn schedule() -> Schedule {
    Schedule {
        rate: 200,
        warm_up: Duration::ZERO,
        lasting: Duration::from_millis(500),
        connections: 4,
        limit: Duration::from_secs(5),
        backlog: Backlog::Dropped,
    }
}

fn run(address: SocketAddr, schedule: Schedule) -> Round {
    let call = request(address, "/", Some("{}"));
    open(address, schedule, &call, &Watch::default()).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the server's own thread")]
fn stall(millis: u64) {
    thread::sleep(Duration::from_millis(millis));
}

#[test]
fn a_stall_is_felt_by_every_call_that_it_delays() {
    let address = server(|number| {
        if number == 10 {
            stall(300);
        }
        Some(WARM)
    });
    let schedule = Schedule {
        connections: 1,
        ..schedule()
    };
    let round = run(address, schedule);
    assert_eq!((round.tally.calls(), round.unsent), (100, 0));
    // Sixty calls were due in these 300 ms; a loop that waits would have seen one slow call.
    assert!(round.held >= 50, "{} held", round.held);
    let slow = round.tally.latencies.quantile_ms(0.75);
    assert!(slow > 80.0, "75 % took less than {slow} ms");
}

#[test]
fn calls_of_the_warm_up_do_not_count() {
    let cold = "HTTP/1.1 200 OK\r\nx-invoke-summary: {\"start\":\"cold\"}\r\n\
                content-length: 0\r\n\r\n";
    let address = server(move |number| Some(if number < 20 { cold } else { WARM }));
    let schedule = Schedule {
        warm_up: Duration::from_millis(500),
        ..schedule()
    };
    let Round { tally, warm_up, .. } = run(address, schedule);
    assert_eq!((warm_up.cold, warm_up.warm, warm_up.calls()), (20, 80, 100));
    assert_eq!((tally.cold, tally.warm, tally.calls()), (0, 100, 100));
}

#[test]
fn calls_that_never_left_are_counted() {
    let address = server(|_| {
        stall(100);
        Some(WARM)
    });
    let round = run(address, schedule());
    assert_eq!(round.tally.calls() + round.unsent, 100);
    assert!(round.unsent > 50, "{} unsent", round.unsent);
    let all = Schedule {
        backlog: Backlog::Sent,
        rate: 40,
        ..schedule()
    };
    let round = run(address, all);
    assert_eq!((round.tally.calls(), round.unsent), (20, 0));
}

#[test]
fn failures_are_told_apart_and_do_not_end_a_load() {
    let address = server(|number| match number % 4 {
        0 => Some(REFUSED),
        1 => None,
        _ => Some(WARM),
    });
    let plan = Loop {
        connections: 2,
        warm_up: Duration::ZERO,
        until: Until::Sent(100),
        limit: Some(Duration::from_secs(5)),
    };
    let call = request(address, "/", Some("{}"));
    let again = call.clone();
    let loops = [
        closed(address, plan, move |_| call.clone(), &Watch::default()).unwrap(),
        open(address, schedule(), &again, &Watch::default()).unwrap(),
    ];
    for Round { tally, .. } in loops {
        assert_eq!((tally.calls(), tally.succeeded()), (100, 50));
        let refused = &tally.failures[&Kind::Answer {
            status: 429,
            code: 150_429,
        }];
        assert_eq!((refused.count, refused.retry_after), (25, 25));
        assert_eq!(refused.example, "full");
        assert_eq!(tally.failures[&Kind::Broken].count, 25);
    }
}

#[test]
fn a_load_that_is_stopped_ends_soon() {
    let address = server(|number| {
        if number >= 50 {
            stall(10_000);
        }
        Some(WARM)
    });
    let schedule = Schedule {
        lasting: Duration::from_hours(1),
        ..schedule()
    };
    let call = request(address, "/", None);
    let watch = Watch::default();
    let begin = Instant::now();
    let round = thread::scope(|scope| {
        let round = scope.spawn(|| open(address, schedule, &call, &watch).unwrap());
        while watch.calls().0 < 50 {
            thread::yield_now();
        }
        watch.stop();
        round.join().unwrap()
    });
    assert_eq!(round.tally.calls(), 50);
    assert!(begin.elapsed() < Duration::from_secs(8));
    assert!(round.elapsed <= begin.elapsed());
}

#[test]
fn an_answer_that_does_not_come_is_a_failure_in_the_end() {
    let address = server(|_| {
        stall(2000);
        Some(WARM)
    });
    let limit = Duration::from_millis(150);
    let round = run(
        address,
        Schedule {
            limit,
            rate: 2,
            ..schedule()
        },
    );
    assert_eq!(round.tally.failures[&Kind::Timeout].count, 1);
    let plan = Loop {
        connections: 1,
        warm_up: Duration::ZERO,
        until: Until::Sent(1),
        limit: Some(limit),
    };
    let call = request(address, "/", None);
    let round = closed(address, plan, move |_| call.clone(), &Watch::default()).unwrap();
    assert_eq!(round.tally.failures[&Kind::Timeout].count, 1);
}

#[test]
fn nobody_there_is_an_error_at_once() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let address = address.unwrap();
    let call = request(address, "/", None);
    let error = open(address, schedule(), &call, &Watch::default()).unwrap_err();
    assert!(
        error
            .text()
            .starts_with(&format!("no connection to {address}: "))
    );
}
