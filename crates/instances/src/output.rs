//! Lines that user code wrote, on their way to the log sink.
//!
//! Whatever an instance sends is cut into lines of a bounded length and counted: an instance that
//! writes faster than its share loses lines, and one line says how many.

use std::sync::Arc;

use bugle_types::FunctionId;
use tokio::time::{Duration, Instant};

use crate::{InstanceId, LogLine, LogSink, LogStream};

/// How much of a call's output travels back with its reply.
const TAIL: usize = 4096;

/// The last bytes that a call wrote.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    /// Adds what was written last.
    pub(crate) fn push(&mut self, text: &[u8]) {
        let text = &text[text.len().saturating_sub(TAIL)..];
        let excess = (self.0.len() + text.len()).saturating_sub(TAIL);
        self.0.drain(..excess);
        self.0.extend_from_slice(text);
    }

    /// The bytes.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The bounds of what an instance may log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    /// The longest line, in bytes; longer ones are cut.
    pub(crate) line_bytes: usize,
    /// The most lines in a second.
    pub(crate) lines_per_second: u32,
}

/// The lines of one instance.
pub(crate) struct Lines {
    function: Arc<FunctionId>,
    instance: InstanceId,
    sink: Arc<dyn LogSink>,
    limits: LogLimits,
    second: Instant,
    in_second: u32,
    lost: u64,
    /// The end of each stream that is no whole line yet. The platform's own lines are always whole.
    raw: [Vec<u8>; 3],
}

impl Lines {
    pub(crate) fn new(
        function: Arc<FunctionId>,
        instance: InstanceId,
        sink: Arc<dyn LogSink>,
        limits: LogLimits,
    ) -> Self {
        Self {
            function,
            instance,
            sink,
            limits,
            second: Instant::now(),
            in_second: 0,
            lost: 0,
            raw: [const { Vec::new() }; 3],
        }
    }

    /// Whose lines they are.
    pub(crate) fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Takes whole lines; the last one may lack its end.
    pub(crate) fn whole(&mut self, text: &[u8], stream: LogStream, request: Option<&Arc<str>>) {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        for line in text.split(|byte| *byte == b'\n') {
            self.line(line, stream, request);
        }
    }

    /// Takes a piece of a stream; its last line waits for its end.
    pub(crate) fn raw(&mut self, text: &[u8], stream: LogStream, request: Option<&Arc<str>>) {
        let raw = &mut self.raw[stream as usize];
        raw.extend_from_slice(text);
        let end = match raw.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if raw.len() > self.limits.line_bytes => raw.len(),
            None => return,
        };
        let rest = raw.split_off(end);
        let whole = std::mem::replace(raw, rest);
        self.whole(&whole, stream, request);
    }

    /// Gives out what has no end yet, because nothing more will come.
    pub(crate) fn finish(&mut self) {
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let rest = std::mem::take(&mut self.raw[stream as usize]);
            if !rest.is_empty() {
                self.whole(&rest, stream, None);
            }
        }
        self.tell_loss();
    }

    /// Adds a line of the platform's own.
    pub(crate) fn say(&self, text: String) {
        self.give(text, LogStream::Platform, None);
    }

    fn line(&mut self, text: &[u8], stream: LogStream, request: Option<&Arc<str>>) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.tell_loss();
            self.second = Instant::now();
            self.in_second = 0;
        }
        self.in_second = self.in_second.saturating_add(1);
        if self.in_second > self.limits.lines_per_second {
            self.lost += 1;
            return;
        }
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let mut shown =
            String::from_utf8_lossy(&text[..text.len().min(self.limits.line_bytes)]).into_owned();
        if text.len() > self.limits.line_bytes {
            shown.push('…');
        }
        self.give(shown, stream, request.cloned());
    }

    fn tell_loss(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            let limit = self.limits.lines_per_second;
            let text = format!("{lost} lines were dropped: more than {limit} lines in a second");
            self.give(text, LogStream::Platform, None);
        }
    }

    fn give(&self, text: String, stream: LogStream, request: Option<Arc<str>>) {
        self.sink.line(LogLine {
            function: Arc::clone(&self.function),
            instance: self.instance,
            request,
            stream,
            text,
        });
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Collected(Mutex<Vec<String>>);

    impl LogSink for Collected {
        fn line(&self, line: LogLine) {
            self.0.lock().push(line.text);
        }
    }

    fn lines(limits: LogLimits) -> (Lines, Arc<Collected>) {
        let sink = Arc::new(Collected::default());
        let urn: bugle_types::FunctionUrn = "sn:cn:yrk:default:function:f".parse().unwrap();
        let lines = Lines::new(
            Arc::new(FunctionId::from_urn(urn)),
            InstanceId(1),
            Arc::clone(&sink) as Arc<dyn LogSink>,
            limits,
        );
        (lines, sink)
    }

    const WIDE: LogLimits = LogLimits {
        line_bytes: 10,
        lines_per_second: 3,
    };

    #[tokio::test]
    async fn text_is_cut_into_lines_and_long_lines_are_cut_off() {
        let (mut lines, sink) = lines(WIDE);
        lines.whole(b"one\n\n0123456789abc\n", LogStream::Stdout, None);
        assert_eq!(*sink.0.lock(), ["one", "", "0123456789…"]);
    }

    #[tokio::test]
    async fn a_raw_line_waits_for_its_end_unless_it_grows_too_long() {
        let (mut lines, sink) = lines(WIDE);
        lines.raw(b"ab", LogStream::Stdout, None);
        lines.raw(b"e", LogStream::Stderr, None);
        assert!(sink.0.lock().is_empty());
        lines.raw(b"c\nd", LogStream::Stdout, None);
        assert_eq!(*sink.0.lock(), ["abc"]);
        lines.finish();
        assert_eq!(*sink.0.lock(), ["abc", "d", "e"]);
    }

    #[tokio::test(start_paused = true)]
    async fn lines_above_the_rate_are_dropped_and_counted() {
        let (mut lines, sink) = lines(WIDE);
        lines.whole(b"1\n2\n3\n4\n5", LogStream::Stdout, None);
        tokio::time::advance(Duration::from_secs(1)).await;
        lines.whole(b"6", LogStream::Stdout, None);
        let expected = [
            "1",
            "2",
            "3",
            "2 lines were dropped: more than 3 lines in a second",
            "6",
        ];
        assert_eq!(*sink.0.lock(), expected);
    }

    #[test]
    fn a_tail_keeps_the_last_four_kibibytes() {
        let mut tail = Tail::default();
        tail.push(&[b'a'; 3000]);
        tail.push(&[b'b'; 3000]);
        let bytes = tail.into_bytes();
        assert_eq!(bytes.len(), TAIL);
        assert_eq!(bytes[TAIL - 3001..][..2], *b"ab");
    }
}
