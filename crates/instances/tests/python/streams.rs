//! Messages to the client while a handler runs.

use std::time::Duration;

use bugle_instances::StreamPart;
use tokio::sync::mpsc;

use crate::support::{Machine, json, on_every_interpreter, on_old_and_new, request};

#[test]
fn messages_arrive_in_order_before_the_result() {
    on_every_interpreter(|machine: Machine| async move {
        for keyword in ["", "async "] {
            let source = format!(
                "{keyword}def handler(event, context):\n    stream = context.get_stream()\n    \
                 for n in range(50):\n        stream.write('ü%d' % n)\n    return 'done'\n"
            );
            let instance = machine.start(&source).await.unwrap();
            let (sink, mut messages) = mpsc::channel(2);
            let mut call = request(b"{}");
            call.stream = Some(sink);
            let read = async {
                let mut seen = Vec::new();
                while let Some(message) = messages.recv().await {
                    let StreamPart::Message(message) = message else {
                        panic!("a handler writes messages: {message:?}");
                    };
                    seen.push(String::from_utf8(message.to_vec()).unwrap());
                }
                seen
            };
            let (reply, seen) = tokio::join!(instance.instance.call(call), read);
            assert_eq!(json(&reply.unwrap()), r#""done""#);
            let expected: Vec<String> = (0..50).map(|n| format!("ü{n}")).collect();
            assert_eq!(seen, expected);
        }
    });
}

#[test]
fn a_handler_waits_for_a_slow_client() {
    on_every_interpreter(|machine: Machine| async move {
        let threads = "SENT = [0]\ndef handler(event, context):\n    \
            if event == 'count':\n        return SENT[0]\n    \
            for n in range(40):\n        context.get_stream().write('x' * 100000)\n        \
            SENT[0] += 1\n";
        let coroutines = "SENT = [0]\nasync def handler(event, context):\n    \
            if event == 'count':\n        return SENT[0]\n    stream = context.get_stream()\n    \
            for n in range(40):\n        await stream.drain()\n        stream.write('x' * 100000)\n        \
            SENT[0] += 1\n";
        for source in [threads, coroutines] {
            let instance = machine.start(source).await.unwrap();
            let (sink, mut messages) = mpsc::channel(1);
            let mut call = request(b"{}");
            call.stream = Some(sink);
            let running = instance.instance.call(call);
            tokio::pin!(running);
            // The client takes nothing. The handler gets stuck, and other calls do not.
            let stuck = async {
                let mut last = 0;
                loop {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let sent: u32 = instance.answer(r#""count""#).await.parse().unwrap();
                    if sent > 0 && sent == last {
                        return sent;
                    }
                    last = sent;
                }
            };
            let sent = tokio::select! {
                _ = &mut running => panic!("nobody has read the stream"),
                sent = stuck => sent,
            };
            assert!(
                (8..20).contains(&sent),
                "{sent} messages of 100 kB are under way"
            );
            let read = async {
                let mut count = 0;
                while messages.recv().await.is_some() {
                    count += 1;
                }
                count
            };
            let (reply, count) = tokio::join!(running, read);
            reply.unwrap();
            assert_eq!(count, 40);
        }
    });
}

#[test]
fn a_coroutine_that_does_not_drain_still_waits_for_the_client() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "async def handler(event, context):\n    for n in range(40):\n        \
                      context.get_stream().write('x' * 100000)\n";
        let instance = machine.start(source).await.unwrap();
        let (sink, mut messages) = mpsc::channel(1);
        let mut call = request(b"{}");
        call.stream = Some(sink);
        let read = async {
            let mut count = 0;
            while messages.recv().await.is_some() {
                count += 1;
            }
            count
        };
        let (reply, count) = tokio::join!(instance.instance.call(call), read);
        reply.unwrap();
        assert_eq!(count, 40);
    });
}

#[test]
fn nobody_listens_and_nobody_minds() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    for n in range(100):\n        \
                      context.getStream().write('x' * 100000)\n    return 'done'\n";
        let instance = machine.start(source).await.unwrap();
        assert_eq!(instance.answer("{}").await, r#""done""#);
        let (sink, messages) = mpsc::channel(1);
        drop(messages);
        let mut call = request(b"{}");
        call.stream = Some(sink);
        assert_eq!(
            json(&instance.instance.call(call).await.unwrap()),
            r#""done""#
        );
    });
}

#[test]
fn a_caller_that_leaves_does_not_hold_the_handler_up() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    if event == 'ping':\n        return 1\n    \
                      print('writing')\n    for n in range(100):\n        \
                      context.get_stream().write('x' * 100000)\n    print('written')\n";
        let instance = machine.start(source).await.unwrap();
        let (sink, _messages) = mpsc::channel(1);
        let mut call = request(b"{}");
        call.stream = Some(sink);
        tokio::select! {
            _ = instance.instance.call(call) => panic!("nobody has read the stream"),
            _ = machine.log.line("writing") => {}
        }
        machine.log.line("written").await;
        assert_eq!(instance.answer(r#""ping""#).await, "1");
    });
}

#[test]
fn a_message_has_a_largest_size() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    stream = context.get_stream()\n    \
                      if event:\n        stream.set_max_write_size(event)\n    \
                      stream.write('x' * (4194305 if not event else event + 1))\n";
        let instance = machine.start(source).await.unwrap();
        for (event, said) in [
            ("0", "4194305 bytes exceeds"),
            ("10", "11 bytes exceeds the limit of 10"),
        ] {
            let (code, message, kind, _) = instance.failure(event).await;
            assert_eq!((code, kind.as_str()), (4002, "ValueError"));
            assert!(message.contains(said), "{message}");
        }
    });
}
