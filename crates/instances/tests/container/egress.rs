//! What containers reach outside.
//!
//! The outside is this machine's own address, which only an operator can allow; a test reaches
//! nothing else.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, UdpSocket};

use bugle_artifacts::address;
use bugle_types::ContainerNetwork;

use crate::support::{Machine, on_every_runtime_at, wanted};

/// The address from which this machine would send to others. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then_some(own)
}

/// A server that answers one line to everybody.
fn server(address: IpAddr) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = [0; 6];
            if stream.read_exact(&mut line).is_ok() {
                _ = stream.write_all(b"answered\n");
            }
        }
    });
    port
}

async fn asks(machine: &Machine, network: ContainerNetwork, address: IpAddr, port: u16) -> String {
    let mut wanted = wanted();
    wanted.spec.network = network;
    let running = machine.start(wanted).await;
    running
        .run(&format!("echo hello | nc -w 3 {address} {port} 2>&1"))
        .await
}

#[test]
fn who_may_reaches_what_the_operator_allows_and_nothing_else() {
    let Some(own) = own_address() else {
        eprintln!("skipped: this machine has no address but the loopback's");
        return;
    };
    let (allowed, refused, home) = (server(own), server(own), server([127, 0, 0, 1].into()));
    let outside = address::Config {
        allowed: vec![format!("{own}:{allowed}")],
        ..address::Config::default()
    };
    on_every_runtime_at(&outside, async |machine| {
        let nat = ContainerNetwork::Nat;
        assert_eq!(asks(&machine, nat, own, allowed).await, "answered");
        assert!(!asks(&machine, nat, own, refused).await.contains("answered"));
        let said = asks(&machine, nat, [127, 0, 0, 1].into(), home).await;
        assert!(!said.contains("answered"), "{said}");
        assert!(
            !asks(&machine, nat, [169, 254, 169, 254].into(), 80)
                .await
                .contains("answered")
        );
        let none = ContainerNetwork::None;
        assert!(
            !asks(&machine, none, own, allowed)
                .await
                .contains("answered")
        );
    });
}

#[test]
fn names_are_asked_for_at_home() {
    on_every_runtime_at(&address::Config::default(), async |machine| {
        let mut wanted = wanted();
        wanted.spec.network = ContainerNetwork::Nat;
        let running = machine.start(wanted).await;
        let said = running.run("cat /etc/resolv.conf; cat /etc/hosts").await;
        assert!(said.starts_with("nameserver 127.0.0.1\n"), "{said}");
        assert!(said.contains(&running.0.id().to_string()), "{said}");
    });
}
