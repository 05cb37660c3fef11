//! What the profiler says to whoever runs the program: one line on stderr, once for each reason.
//!
//! It does not go through `tracing`: the profiler lies below it, and a line logged from the export
//! thread would enter the very layers that are being profiled.

use std::collections::HashSet;
use std::fmt;
use std::io::Write;

/// Says each reason once.
pub(crate) struct Said {
    reasons: HashSet<String>,
    sink: Box<dyn FnMut(&str) + Send>,
}

impl Said {
    /// Says it on stderr.
    pub(crate) fn new() -> Self {
        Self::to(say)
    }

    /// Says it to `sink`.
    pub(crate) fn to(sink: impl FnMut(&str) + Send + 'static) -> Self {
        Self { reasons: HashSet::new(), sink: Box::new(sink) }
    }

    /// Says `text`, unless something was said for `reason` before. Reasons come from the code, never
    /// from a server, so there are few of them.
    pub(crate) fn once(&mut self, reason: impl Into<String>, text: impl FnOnce() -> String) {
        if self.reasons.insert(reason.into()) {
            (self.sink)(&text());
        }
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.reasons).finish()
    }
}

/// One line on stderr. A closed stderr is no reason to panic.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "pollscope: {text}");
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::Said;

    #[test]
    fn each_reason_is_said_once() {
        let (to, heard) = mpsc::channel();
        let mut said = Said::to(move |text| to.send(text.to_owned()).unwrap());
        for text in ["refused", "refused again"] {
            said.once("refused", || text.to_owned());
        }
        said.once("slow", || "slow".to_owned());
        drop(said);
        assert_eq!(heard.iter().collect::<Vec<_>>(), ["refused", "slow"]);
    }
}
