//! What a Python function sees and does, on every interpreter of this machine.

mod support;

use bugle_instances::ExitCause;
use support::{Machine, json, on_every_interpreter};

#[test]
fn a_call_is_answered_with_the_result_as_json() {
    on_every_interpreter(|machine: Machine| async move {
        let instance = machine
            .start("def handler(event, context):\n    return {'seen': event, 'who': 'ü'}\n")
            .await
            .unwrap();
        let reply = instance.call(br#"{"a": [1, 2.5, null]}"#).await.unwrap();
        assert_eq!(
            json(&reply),
            r#"{"seen": {"a": [1, 2.5, null]}, "who": "\u00fc"}"#
        );
    });
}

#[test]
fn a_killed_instance_is_gone() {
    on_every_interpreter(|machine: Machine| async move {
        let instance = machine
            .start("def handler(event, context): pass\n")
            .await
            .unwrap();
        instance.instance.kill();
        assert_eq!(instance.instance.exited().await.cause, ExitCause::Stopped);
        assert!(instance.call(b"{}").await.is_err());
    });
}
