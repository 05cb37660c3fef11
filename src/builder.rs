//! Choosing, before anything starts.

use std::time::Duration;

use crate::environment::Environment;
use crate::error::Error;
use crate::export::Export;
use crate::profiler::Profiler;
use crate::settings::{Engine, Event, Settings, Signal, SpanScope, label_of_field};

/// Everything that can be chosen about a [`Profiler`]; [`start`](Self::start) begins.
///
/// What is chosen here can be changed by whoever starts the program:
///
/// | builder | variable | accepted | default |
/// |---|---|---|---|
/// | `Profiler::builder(name)` | `PYROSCOPE_APPLICATION_NAME`, else `OTEL_SERVICE_NAME`, else `service.name` in `OTEL_RESOURCE_ATTRIBUTES` | a name | |
/// | [`enabled`](Self::enabled) | `POLLSCOPE_ENABLED` | `true`, `false` (`1`, `0`, `on`, `off`) | `true` |
/// | [`engine`](Self::engine) | `POLLSCOPE_ENGINE` | `auto`, `perf`, `timer`, `off` | `auto` |
/// | [`hertz`](Self::hertz) | `PYROSCOPE_PROFILING_INTERVAL` | time between samples: `10ms` | 100 Hz |
/// | [`window`](Self::window) | `PYROSCOPE_UPLOAD_INTERVAL` | `100ms` to `15s` | 10 s |
/// | [`span_scope`](Self::span_scope), [`every_span`](Self::every_span) | `POLLSCOPE_SCOPE` | `local_root`, `innermost`, `every_span` | `local_root` |
/// | [`trace_id_label`](Self::trace_id_label) | `POLLSCOPE_TRACE_ID_LABEL` | `true`, `false` | `true` |
/// | [`span_name_label`](Self::span_name_label) | `POLLSCOPE_SPAN_NAME_LABEL` | `true`, `false` | `true` |
/// | [`raw_stacks`](Self::raw_stacks) | `POLLSCOPE_RAW_STACKS` | `true`, `false` | `false` |
/// | `Pyroscope::new(url)` | `PYROSCOPE_SERVER_ADDRESS`; adds the exporter where the code has none | a URL | |
/// | `Pyroscope::basic_auth` | `PYROSCOPE_BASIC_AUTH_USER`, `PYROSCOPE_BASIC_AUTH_PASSWORD` | both or none | |
/// | `Pyroscope::tenant_id` | `PYROSCOPE_TENANT_ID` | a name | |
/// | `Pyroscope::label` | `PYROSCOPE_LABELS` | `name=value,…` | |
/// | `service_namespace` of either exporter | `service.namespace` in `OTEL_RESOURCE_ATTRIBUTES` | a name | |
///
/// A value that is not understood is an error of [`start`](Self::start) that names the variable, the
/// value, and what is accepted.
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    settings: Settings,
    exporters: Vec<Box<dyn Export>>,
    environment: Option<Environment>,
}

impl Builder {
    pub(crate) fn new(service_name: String) -> Self {
        Self {
            settings: Settings::new(service_name),
            exporters: Vec::new(),
            environment: Some(Environment::process()),
        }
    }

    /// Adds an exporter, which gets each window's profile.
    ///
    /// Several may be added; they work one after the other on a thread of their own, so a slow one
    /// delays the others and never the program.
    ///
    /// None by default: then only [`Profiler::stats`] tells anything.
    pub fn export(mut self, exporter: impl Export + 'static) -> Self {
        self.exporters.push(Box::new(exporter));
        self
    }

    /// Sets whether anything is done at all.
    ///
    /// Without it the layer is empty, no thread is started, exporters are not looked at, and the
    /// statistics say so.
    ///
    /// `true` by default.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.settings.enabled = enabled;
        self
    }

    /// Sets what takes the samples.
    ///
    /// Perf adds the kernel's part of the stacks, keeps to high rates, and sees all work alike. It costs
    /// an interrupt of some 20 µs a sample, a descriptor and two locked pages a thread, and one to three
    /// microseconds each time that a thread goes to sleep and wakes (`cargo bench --bench switch`).
    ///
    /// Timers cost nothing there, but look at a thread only when one of the scheduler's ticks meets it,
    /// 250 times a second on many systems. A higher rate gives samples that weigh more instead, and short
    /// work that keeps step with the ticks may be sampled too seldom, or never: what none of them met is
    /// unsampled.
    ///
    /// [`Engine::Auto`] by default.
    pub fn engine(mut self, engine: Engine) -> Self {
        self.settings.engine = engine;
        self
    }

    /// Sets what is sampled.
    ///
    /// Everything but CPU time needs perf. Where the kernel or the machine does not have an event,
    /// nothing is sampled, and the statistics say why.
    ///
    /// [`Event::CpuClock`] by default.
    pub fn event(mut self, event: Event) -> Self {
        self.settings.event = event;
        self
    }

    /// Sets the signal that interrupts threads.
    ///
    /// When something else in the process handles SIGURG, choose another one here. A program that
    /// replaces itself by `exec` should stop the profiler before, then: see [`Signal::Urg`].
    ///
    /// [`Signal::Urg`] by default.
    pub fn signal(mut self, signal: Signal) -> Self {
        self.settings.signal = signal;
        self
    }

    /// Sets how many samples are taken in a second of CPU time, of each thread: 1 to 10,000.
    ///
    /// More show shorter spans and cost more, each about 20 to 50 µs with perf.
    ///
    /// 100 by default.
    pub fn hertz(mut self, hertz: u32) -> Self {
        self.settings.hertz = hertz;
        self
    }

    /// Sets how much time one profile covers: 100 ms to 15 s.
    ///
    /// Shorter ones arrive sooner and are more to store. With longer ones than 15 s Grafana would
    /// miss profiles of short spans.
    ///
    /// 10 s by default.
    pub fn window(mut self, window: Duration) -> Self {
        self.settings.window = window;
        self
    }

    /// Sets how many frames of a stack are kept, from the leaf on: 1 to 768.
    ///
    /// Deeper stacks get an `[incomplete stack]` frame and are counted.
    ///
    /// 256 by default.
    pub fn stack_depth(mut self, frames: usize) -> Self {
        self.settings.stack_depth = frames;
        self
    }

    /// Sets which span's id a sample carries.
    ///
    /// Grafana's button on a span asks for the profile of that span's id.
    ///
    /// [`SpanScope::LocalRoot`] by default.
    pub fn span_scope(mut self, scope: SpanScope) -> Self {
        self.settings.scope = scope;
        self
    }

    /// Makes a second profile of each window, in which a sample appears once for every open span of
    /// its trace: so that any span, and not the local root alone, has a flame graph with all that
    /// its descendants did.
    ///
    /// It is a profile type of its own, `span:cpu:nanoseconds:cpu:nanoseconds` in Pyroscope, to
    /// choose in Grafana's data source; `process_cpu` still counts each sample once. Where more than 33
    /// spans are nested, the innermost 33 and the local root have the sample. Costs a few words a
    /// sample in the handler, and about as many samples to store as spans are nested.
    ///
    /// Off by default.
    pub fn every_span(mut self) -> Self {
        self.settings.every_span = true;
        self
    }

    /// Sets whether samples carry the trace id, by which Pyroscope ≥ 2.2 finds a whole trace.
    ///
    /// Servers before 2.1 make a series of each trace: switch it off for those.
    ///
    /// `true` by default.
    pub fn trace_id_label(mut self, on: bool) -> Self {
        self.settings.trace_id_label = on;
        self
    }

    /// Sets whether samples carry the name of the span whose id they carry.
    ///
    /// Each name is a series on the server; after 500 distinct ones spans are called `other`.
    ///
    /// `true` by default.
    pub fn span_name_label(mut self, on: bool) -> Self {
        self.settings.span_name_label = on;
        self
    }

    /// Makes a label of a span's field, such as `http.route`, which becomes `http_route`.
    ///
    /// A span has the labels that its parent has when it is made, its own on top; a value recorded
    /// later counts for the span itself, and for children made from then on. Two fields may become the
    /// same label, such as `http.route` and `http_route`: the value recorded last counts. Each value
    /// is a series on the server; after 100 distinct ones of a label the value is `other`. Fields may
    /// hold personal data, so none is taken that is not named here.
    ///
    /// None by default.
    pub fn label_field(mut self, field: impl Into<String>) -> Self {
        self.settings.label_fields.push(field.into());
        self
    }

    /// Sets whether stacks stay as the unwinder found them: no `span:` frames in front, and the
    /// runtime's frames as they are.
    ///
    /// `false` by default.
    pub fn raw_stacks(mut self, raw: bool) -> Self {
        self.settings.raw_stacks = raw;
        self
    }

    /// Sets how long [`Profiler::stop`], or dropping it, may wait for the last profile to be
    /// delivered.
    ///
    /// 5 s by default.
    pub fn stop_within(mut self, time: Duration) -> Self {
        self.settings.stop_within = time;
        self
    }

    /// Sets where variables come from; `None` ignores them all.
    ///
    /// The process's own by default.
    pub fn environment(mut self, environment: impl Into<Option<Environment>>) -> Self {
        self.environment = environment.into();
        self
    }

    /// Starts sampling: all threads of the process, those that exist and those to come.
    ///
    /// What the kernel refuses is no error: something lesser is done, said once on stderr, and told
    /// by [`Profiler::stats`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a value out of bounds, or a variable that
    /// is not understood; [`InUse`](crate::ErrorKind::InUse) when another profiler runs in this
    /// process, or something else handles the signal; [`Kernel`](crate::ErrorKind::Kernel) when no
    /// thread can be started.
    pub fn start(self) -> Result<Profiler, Error> {
        let Self { mut settings, mut exporters, environment } = self;
        if let Some(environment) = &environment {
            environment.apply(&mut settings)?;
        }
        settings.check()?;
        if !settings.is_on() {
            // Whatever is wrong with an exporter, it is not used.
            return Profiler::start(settings, Vec::new());
        }
        if let Some(environment) = &environment {
            #[cfg(feature = "pyroscope")]
            if !exporters.iter().any(|exporter| exporter.name() == crate::Pyroscope::NAME) {
                exporters.extend(
                    crate::Pyroscope::from_env(environment).map(|added| Box::new(added) as Box<dyn Export>),
                );
            }
            for exporter in &mut exporters {
                exporter.configure(environment)?;
            }
        }
        let labels: Vec<_> = settings.label_fields.iter().map(|field| label_of_field(field)).collect();
        for exporter in &exporters {
            exporter.check()?;
            exporter.check_fields(&labels)?;
        }
        Profiler::start(settings, exporters)
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let exporters: Vec<_> = self.exporters.iter().map(|exporter| exporter.name()).collect();
        f.debug_struct("Builder").field("settings", &self.settings).field("exporters", &exporters).finish()
    }
}
