//! What stands for a running profiler where nothing can be sampled: other systems than Linux, other
//! processors than x86_64 and aarch64. It is never made, so it does nothing.

use std::convert::Infallible;
use std::marker::PhantomData;

use tracing::Dispatch;
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::Context;

use crate::stats::Stats;

/// As in `running.rs`.
pub(crate) struct Running(Infallible);

impl Running {
    pub(crate) fn follower<S>(&self) -> Follower<S> {
        match self.0 {}
    }

    pub(crate) fn set_hertz(&self, _hertz: u32) {}

    pub(crate) fn set_running(&self, _running: bool) {}

    pub(crate) fn stats(&self) -> Stats {
        match self.0 {}
    }

    pub(crate) fn stop(self) -> Stats {
        match self.0 {}
    }
}

/// As in `follow.rs`.
pub(crate) struct Follower<S>(Infallible, PhantomData<fn(S)>);

impl<S> Follower<S> {
    pub(crate) fn set_dispatch(&self, _dispatch: &Dispatch) {}

    pub(crate) fn new_span(&self, _attrs: &Attributes<'_>, _id: &Id, _ctx: &Context<'_, S>) {}

    pub(crate) fn enter(&self, _id: &Id, _ctx: &Context<'_, S>) {}

    pub(crate) fn exit(&self, _id: &Id) {}

    pub(crate) fn record(&self, _id: &Id, _values: &Record<'_>, _ctx: &Context<'_, S>) {}

    pub(crate) fn close(&self, _id: &Id, _ctx: &Context<'_, S>) {}
}
