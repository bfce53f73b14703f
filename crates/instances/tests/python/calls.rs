//! Events and results.

use bugle_instances::ReplyBody;
use bytes::Bytes;

use crate::support::{Machine, json, on_every_interpreter, on_old_and_new, request};

const ECHO: &str = "def handler(event, context):\n    return event\n";

#[test]
fn a_call_is_answered_with_the_result_as_json() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "def handler(event, context):\n    return {'seen': event, 'who': 'ü'}\n";
        let instance = machine.start(source).await.unwrap();
        let answer = instance.answer(r#"{"a": [1, 2.5, null]}"#).await;
        assert_eq!(
            answer,
            r#"{"seen": {"a": [1, 2.5, null]}, "who": "\u00fc"}"#
        );
    });
}

#[test]
fn the_event_is_the_parsed_body() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    return [type(event).__name__, event]\n";
        let instance = machine.start(source).await.unwrap();
        for (body, seen) in [
            ("", r#"["dict", {}]"#),
            ("null", r#"["dict", {}]"#),
            (" \n{\"a\": 1} ", r#"["dict", {"a": 1}]"#),
            ("[1]", r#"["list", [1]]"#),
            ("7", r#"["int", 7]"#),
            // The reference parsed such a string once more.
            (r#""{\"a\": 1}""#, r#"["str", "{\"a\": 1}"]"#),
        ] {
            assert_eq!(instance.answer(body).await, seen, "{body}");
        }
    });
}

#[test]
fn a_body_that_is_not_json_is_handed_over_as_bytes() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    \
                      return [list(event), context.get_content_type()]\n";
        let instance = machine.start(source).await.unwrap();
        let mut call = request(b"\xff\x00a");
        call.json = false;
        call.meta = Bytes::from_static(br#"{"content_type": "image/png"}"#);
        let reply = instance.instance.call(call).await.unwrap();
        assert_eq!(json(&reply), r#"[[255, 0, 97], "image/png"]"#);
    });
}

#[test]
fn a_body_that_might_be_json_and_is_none_arrives_as_bytes() {
    on_old_and_new(|machine: Machine| async move {
        let source =
            "def handler(event, context):\n    return [type(event).__name__, len(event)]\n";
        let instance = machine.start(source).await.unwrap();
        let deep = "[".repeat(100_000);
        for (body, length) in [("{oops", 5), ("oops", 4), ("1 2", 3), (&deep, deep.len())] {
            let expected = format!(r#"["bytes", {length}]"#);
            assert_eq!(instance.answer(body).await, expected);
        }
    });
}

#[test]
fn results_become_json() {
    on_old_and_new(|machine: Machine| async move {
        let source = "VALUES = {'none': None, 'text': 'a\\u00e9', 'true': True, 'float': 1.5,\n\
                      'list': (1, 2), 'nested': {'a': {'b': []}, 1: 2}}\n\
                      def handler(event, context):\n    return VALUES[event]\n";
        let instance = machine.start(source).await.unwrap();
        for (name, result) in [
            ("none", r#""""#),
            ("text", r#""a\u00e9""#),
            ("true", "true"),
            ("float", "1.5"),
            ("list", "[1, 2]"),
            ("nested", r#"{"a": {"b": []}, "1": 2}"#),
        ] {
            assert_eq!(instance.answer(&format!("\"{name}\"")).await, result);
        }
    });
}

#[test]
fn a_result_that_json_cannot_hold_is_4007() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import datetime\nring = []\nring.append(ring)\n\
            VALUES = {'set': {1}, 'bytes': b'x', 'date': datetime.date.today(), 'nan': float('nan'),\n\
            'object': object(), 'ring': ring, 'key': {(1, 2): 3}}\n\
            def handler(event, context):\n    return VALUES[event]\n";
        let instance = machine.start(source).await.unwrap();
        for name in ["set", "bytes", "date", "nan", "object", "ring", "key"] {
            let (code, message, ..) = instance.failure(&format!("\"{name}\"")).await;
            assert_eq!(code, 4007, "{name}: {message}");
            assert!(
                message.contains("cannot be written as JSON"),
                "{name}: {message}"
            );
        }
    });
}

#[test]
fn a_result_at_the_limit_passes_and_one_above_it_is_4004() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    return 'x' * event\n";
        let instance = machine.start(source).await.unwrap();
        assert_eq!(instance.answer("6291454").await.len(), 6_291_456);
        let (code, message, ..) = instance.failure("6291455").await;
        assert_eq!(code, 4004);
        assert_eq!(
            message,
            "response body size 6291457 exceeds the limit of 6291456"
        );
    });
}

#[test]
fn a_large_body_arrives_whole() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    return [len(event), event[-3:]]\n";
        let instance = machine.start(source).await.unwrap();
        let body = format!("\"{}end\"", "x".repeat(6_000_000));
        assert_eq!(instance.answer(&body).await, r#"[6000003, "end"]"#);
        assert_eq!(instance.answer(r#""short""#).await, r#"[5, "ort"]"#);
    });
}

#[test]
fn an_exception_is_told_with_type_and_the_users_frames() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "class Broken(ValueError): pass\n\
            def inner():\n    raise Broken('no such thing')\n\
            def handler(event, context):\n    inner()\n";
        let instance = machine.start(source).await.unwrap();
        let (code, message, kind, trace) = instance.failure("{}").await;
        assert_eq!(code, 4002);
        assert_eq!(
            message,
            "Fail to run user call handler. err: no such thing."
        );
        assert_eq!(kind, "main.Broken");
        assert!(
            trace.contains("line 5, in handler") && trace.contains("in inner"),
            "{trace}"
        );
        assert!(!trace.contains("_bugle"), "{trace}");
        assert!(
            machine
                .log
                .lines()
                .iter()
                .any(|line| line.text.contains("no such thing"))
        );
    });
}

#[test]
fn sys_exit_fails_the_call_and_the_instance_lives_on() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import sys\ndef handler(event, context):\n    \
                      return sys.exit(3) if event else 'alive'\n";
        let instance = machine.start(source).await.unwrap();
        let (code, message, kind, _) = instance.failure("1").await;
        assert_eq!(code, 4002);
        assert_eq!(
            message,
            "Fail to run user call handler. err: user code sys.exit()."
        );
        assert_eq!(kind, "SystemExit");
        assert_eq!(instance.answer("0").await, r#""alive""#);
    });
}

#[test]
fn a_handler_may_choose_status_headers_and_body() {
    on_every_interpreter(|machine: Machine| async move {
        let instance = machine.start(ECHO).await.unwrap();
        let http = async |event: &str| match instance.call(event.as_bytes()).await.unwrap().body {
            ReplyBody::Http {
                status,
                headers,
                body,
            } => {
                let headers = headers
                    .iter()
                    .map(|(name, value)| format!("{name}: {value}"));
                let headers: Vec<String> = headers.collect();
                (status, headers.join("\n"), body.to_vec())
            }
            other => panic!("{other:?}"),
        };
        let (status, headers, body) = http(
            r#"{"statusCode": 418, "headers": {"X-Tea": "green", "X-Count": 2}, "body": "hi"}"#,
        )
        .await;
        assert_eq!((status, &body[..]), (418, &b"hi"[..]));
        assert_eq!(
            headers,
            "X-Tea: green\nX-Count: 2\ncontent-type: text/plain; charset=utf-8"
        );

        let (_, headers, body) = http(
            r#"{"statusCode": 200, "headers": {"Content-Type": "image/gif"},
                "body": "AAH/", "isBase64Encoded": true}"#,
        )
        .await;
        assert_eq!(body, [0, 1, 255]);
        assert_eq!(headers, "Content-Type: image/gif");

        let (_, headers, body) =
            http(r#"{"statusCode": 201, "multiValueHeaders": {"Set-Cookie": ["a", "b"]}}"#).await;
        assert!(body.is_empty());
        assert_eq!(headers, "Set-Cookie: a\nSet-Cookie: b");

        let (_, headers, body) = http(r#"{"statusCode": 200, "body": {"a": 1}}"#).await;
        assert_eq!(body, b"{\"a\": 1}");
        assert_eq!(headers, "content-type: application/json");
    });
}

#[test]
fn only_the_whole_shape_is_taken_for_an_http_answer() {
    on_old_and_new(|machine: Machine| async move {
        let instance = machine.start(ECHO).await.unwrap();
        for plain in [
            r#"{"statusCode": 200, "data": 1}"#,
            r#"{"statusCode": "200"}"#,
            r#"{"statusCode": true}"#,
            r#"{"statusCode": 42}"#,
        ] {
            assert_eq!(instance.answer(plain).await, plain);
        }
        let broken = r#"{"statusCode": 200, "body": "%", "isBase64Encoded": true}"#;
        assert_eq!(instance.failure(broken).await.0, 4007);
        let many: Vec<String> = (0..200).map(|n| format!("\"x-{n}\": \"1\"")).collect();
        let many = format!(
            "{{\"statusCode\": 200, \"headers\": {{{}}}}}",
            many.join(",")
        );
        assert_eq!(instance.failure(&many).await.0, 4004);
    });
}

#[test]
fn a_handler_may_answer_bytes_in_the_http_shape() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    \
                      return {'statusCode': 200, 'body': b'\\x00\\xff'}\n";
        let instance = machine.start(source).await.unwrap();
        match instance.call(b"{}").await.unwrap().body {
            ReplyBody::Http { headers, body, .. } => {
                assert_eq!(&body[..], b"\x00\xff");
                assert_eq!(headers[0].1, "application/octet-stream");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_reply_tells_how_long_it_ran_and_the_memory() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import time\ndef handler(event, context):\n    time.sleep(0.03)\n";
        let instance = machine.start(source).await.unwrap();
        let reply = instance.call(b"{}").await.unwrap();
        assert!(reply.run.as_millis() >= 30, "{:?}", reply.run);
        assert!(reply.peak_memory > 1024 * 1024, "{}", reply.peak_memory);
    });
}
