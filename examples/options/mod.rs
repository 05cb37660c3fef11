//! The example's command line.

use pollscope::Engine;

use crate::Result;

/// What can be chosen.
pub(crate) struct Options {
    pub(crate) seconds: u64,
    pub(crate) engine: Engine,
    pub(crate) hz: u32,
    pub(crate) out: String,
    pub(crate) requests_per_second: Option<u32>,
}

impl Options {
    pub(crate) fn from_args() -> Result<Self> {
        let mut options = Self {
            seconds: 10,
            engine: Engine::Auto,
            hz: 100,
            out: "profiles".into(),
            requests_per_second: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match &*name {
                "--seconds" => options.seconds = value.parse()?,
                "--engine" => options.engine = value.parse()?,
                "--hz" => options.hz = value.parse()?,
                "--out" => options.out = value,
                "--requests-per-second" => options.requests_per_second = Some(value.parse()?),
                _ => return Err(format!("no such option: {name}").into()),
            }
        }
        Ok(options)
    }
}
