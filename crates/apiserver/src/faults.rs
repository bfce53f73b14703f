//! Things that go wrong on purpose.

use std::time::Duration;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The request is answered with this status code and is not carried out; seconds for `Retry-After`.
    Refuse(u16, Option<u32>),
    /// The request is carried out after this time.
    Delay(Duration),
    /// The request is not carried out and never answered.
    Hang,
    /// The connection is closed without an answer; the request is not carried out.
    Reset,
    /// The request is carried out, and the connection closed without an answer.
    LoseAnswer,
    /// The request is carried out, and the connection closed in the middle of the answer.
    CutAnswer,
}

/// Which requests something goes wrong with.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Their method; any if there is none.
    pub method: Option<String>,
    /// What their path and query contain; empty for all.
    pub path: String,
    /// How many of them.
    pub times: u32,
    /// What goes wrong.
    pub trouble: Trouble,
}

impl Fault {
    /// The next `times` requests whose path contains `path`.
    #[must_use]
    pub fn next(times: u32, path: &str, trouble: Trouble) -> Self {
        Self {
            method: None,
            path: path.to_owned(),
            times,
            trouble,
        }
    }

    /// Only requests of that method.
    #[must_use]
    pub fn of(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }
}

/// The faults that are still to come.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    /// One more.
    pub(crate) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// No more.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// What goes wrong with this request.
    pub(crate) fn take(&mut self, method: &str, path: &str) -> Option<Trouble> {
        let index = self.0.iter().position(|fault| {
            fault
                .method
                .as_deref()
                .is_none_or(|wanted| wanted == method)
                && path.contains(&fault.path)
        })?;
        let fault = &mut self.0[index];
        fault.times = fault.times.saturating_sub(1);
        let trouble = fault.trouble.clone();
        if fault.times == 0 {
            self.0.remove(index);
        }
        Some(trouble)
    }
}
