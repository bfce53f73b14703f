//! What functions print.

use bugle_instances::{LogLine, LogStream};

use crate::support::{Machine, json, on_every_interpreter, on_old_and_new, request};

fn shown(lines: &[LogLine]) -> Vec<(String, Option<String>, LogStream)> {
    let show = |line: &LogLine| {
        let request = line.request.as_deref().map(str::to_owned);
        (line.text.clone(), request, line.stream)
    };
    lines.iter().map(show).collect()
}

#[test]
fn printed_lines_belong_to_the_call_that_wrote_them() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import sys
print('loading')
def handler(event, context):
    print('one', 2)
    print('two', file=sys.stderr)
    sys.stdout.write('par')
    sys.stdout.write('tial\\nrest')
    sys.stdout.buffer.write(b'\\xc3\\xbc')
    assert not sys.stdout.isatty() and sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2
    sys.stdout.flush()
";
        let instance = machine.start(source).await.unwrap();
        let reply = instance.call(b"{}").await.unwrap();
        let own = Some("the-request".to_owned());
        assert_eq!(
            shown(&machine.log.lines()),
            [
                ("loading".to_owned(), None, LogStream::Stdout),
                ("one 2".to_owned(), own.clone(), LogStream::Stdout),
                ("two".to_owned(), own.clone(), LogStream::Stderr),
                ("partial".to_owned(), own.clone(), LogStream::Stdout),
                ("restü".to_owned(), own, LogStream::Stdout),
            ]
        );
        assert_eq!(
            String::from_utf8(reply.log_tail).unwrap(),
            "one 2\ntwo\npartial\nrestü"
        );
    });
}

#[test]
fn what_bypasses_python_belongs_to_the_only_call_there_is() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import os, subprocess
def handler(event, context):
    os.write(1, b'raw\\n')
    os.write(2, b'error\\n')
    subprocess.check_call(['echo', 'from a subprocess'])
";
        let instance = machine.start(source).await.unwrap();
        instance.call(b"{}").await.unwrap();
        for text in ["raw", "error", "from a subprocess"] {
            let line = machine.log.line(text).await;
            assert_eq!(line.request.as_deref(), Some("the-request"));
        }
    });
}

#[test]
fn the_logger_writes_time_level_and_request() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import logging
def handler(event, context):
    context.getLogger().info('value %d', 7)
    context.getLogger().debug('not shown')
    logging.warning('the usual way')
";
        let instance = machine.start(source).await.unwrap();
        instance.call(b"{}").await.unwrap();
        let line = machine.log.line("value 7").await;
        let words: Vec<&str> = line.text.split(' ').collect();
        assert_eq!(words[1..], ["INFO", "the-request", "value", "7"]);
        assert!(
            words[0].ends_with('Z') && words[0].len() == 24,
            "{}",
            words[0]
        );
        assert_eq!(line.stream, LogStream::Stderr);
        assert!(
            machine
                .log
                .lines()
                .iter()
                .all(|line| !line.text.contains("not shown"))
        );
        assert!(
            machine
                .log
                .lines()
                .iter()
                .any(|line| line.text.contains("the usual way"))
        );
    });
}

#[test]
fn a_line_is_shown_while_its_call_still_runs() {
    on_old_and_new(|machine: Machine| async move {
        for keyword in ["", "async "] {
            let wait = if keyword.is_empty() {
                "time.sleep(20)"
            } else {
                "await asyncio.sleep(20)"
            };
            let source = format!(
                "import time, asyncio\n{keyword}def handler(event, context):\n    \
                 print('early {keyword}bird')\n    {wait}\n"
            );
            let instance = machine.start(&source).await.unwrap();
            let text = format!("early {keyword}bird");
            tokio::select! {
                _ = instance.call(b"{}") => panic!("the call has ended"),
                line = machine.log.line(&text) => {
                    assert_eq!(line.request.as_deref(), Some("the-request"));
                }
            }
        }
    });
}

#[test]
fn lines_of_calls_at_the_same_time_are_told_apart() {
    on_every_interpreter(|machine: Machine| async move {
        let threads = "import time\ndef handler(event, context):\n    time.sleep(0.02)\n    \
                       print('line', event)\n    time.sleep(0.02)\n";
        let coroutines = "import asyncio\nasync def handler(event, context):\n    \
                          await asyncio.sleep(0.02)\n    print('line', event)\n    \
                          await asyncio.sleep(0.02)\n";
        for source in [threads, coroutines] {
            let instance = machine.start(source).await.unwrap();
            let calls = (0..20).map(|number| {
                let mut call = request(number.to_string().as_bytes());
                call.request = format!("r{number}").into();
                instance.instance.call(call)
            });
            let replies = futures_util::future::join_all(calls).await;
            for (number, reply) in replies.into_iter().enumerate() {
                let tail = String::from_utf8(reply.unwrap().log_tail).unwrap();
                assert_eq!(tail, format!("line {number}\n"));
            }
        }
        for line in machine.log.lines() {
            let number = line.text.strip_prefix("line ").unwrap();
            assert_eq!(line.request.as_deref(), Some(format!("r{number}").as_str()));
        }
        assert_eq!(machine.log.lines().len(), 40);
    });
}

#[test]
fn what_was_printed_before_a_hard_exit_is_not_lost() {
    on_old_and_new(|machine: Machine| async move {
        let source = "import os\ndef handler(event, context):\n    print('last words')\n    \
                      os._exit(3)\n";
        let instance = machine.start(source).await.unwrap();
        instance.call(b"{}").await.unwrap_err();
        machine.log.line("last words").await;
    });
}

#[test]
fn a_forked_copy_writes_to_the_pipe_and_leaves_the_conversation_alone() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import os, multiprocessing
def work(queue):
    print('in the copy', flush=True)
    queue.put(42)
def handler(event, context):
    print('before')
    ways = multiprocessing.get_context('fork')
    queue = ways.SimpleQueue()
    copy = ways.Process(target=work, args=(queue,))
    copy.start()
    value = queue.get()
    copy.join()
    return value
";
        let instance = machine.start(source).await.unwrap();
        for _ in 0..3 {
            assert_eq!(json(&instance.call(b"{}").await.unwrap()), "42");
        }
        machine.log.line("in the copy").await;
        let before = machine
            .log
            .lines()
            .iter()
            .filter(|line| line.text == "before")
            .count();
        assert_eq!(before, 3);
    });
}

#[test]
fn much_output_arrives_in_order_and_is_bounded() {
    on_old_and_new(|machine: Machine| async move {
        let source = "def handler(event, context):\n    for n in range(3000):\n        print(n)\n    \
                      print('x' * 1000000)\n";
        let instance = machine.start(source).await.unwrap();
        let reply = instance.call(b"{}").await.unwrap();
        assert_eq!(reply.log_tail.len(), 4096);
        let lines = machine.log.lines();
        for (number, line) in lines[..3000].iter().enumerate() {
            assert_eq!(line.text, number.to_string());
        }
        assert!(
            lines[3000..]
                .iter()
                .all(|line| line.text.len() <= 16 * 1024 + 3)
        );
    });
}

#[test]
fn a_process_of_a_function_may_be_spawned_afresh() {
    on_every_interpreter(|machine: Machine| async move {
        let source = "import multiprocessing
def handler(event, context):
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.map(abs, [-1, -2])
";
        let instance = machine.start(source).await.unwrap();
        assert_eq!(instance.answer("{}").await, "[1, 2]");
    });
}
