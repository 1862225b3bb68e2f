//! What the host records of sandboxes and of the events that come out of them.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use opentelemetry::global::{self, BoxedSpan, BoxedTracer, ObjectSafeTracer};
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, InstrumentationScope, KeyValue};

use super::names::{self, key, metric, span};
use crate::event::{Content, Event};

/// Seconds: a sandbox is there in a tenth of a second from a warm snapshot, and in half a minute from a cold one.
const CREATE_SECONDS: &[f64] = &[
    0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0,
];

/// The host's own spans and metrics; the module has the table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Instruments {
    tracer: Arc<BoxedTracer>,
    create_seconds: Histogram<f64>,
    active: UpDownCounter<i64>,
    events: Counter<u64>,
}

/// A sandbox that is being made: the span `sandbox.create`. Dropped without a word of how it went, it ends as an error.
#[derive(Debug)]
pub struct Creating {
    instruments: Instruments,
    span: BoxedSpan,
    caller: Context,
    template: String,
    began: Instant,
    is_over: bool,
}

/// A sandbox, for the trace. A clone stands for the same sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    instruments: Instruments,
    context: Context,
    id: String,
    template: Option<String>,
    is_counted: Arc<AtomicBool>,
}

/// A sandbox that is being ended: the span `sandbox.kill`. Dropped without a word of how it went, it ends as an error.
#[derive(Debug)]
pub struct Killing {
    sandbox: Sandbox,
    span: BoxedSpan,
    is_over: bool,
}

impl Instruments {
    /// By the tracer and meter providers that are global now. An application without any records nothing.
    #[must_use]
    pub fn global() -> Self {
        Self::by(
            global::tracer_with_scope(scope()),
            &global::meter_with_scope(scope()),
        )
    }

    /// By a tracer and a meter of the application's choice.
    #[must_use]
    pub fn new<T>(tracer: T, meter: &Meter) -> Self
    where
        T: ObjectSafeTracer + Send + Sync + 'static,
    {
        Self::by(BoxedTracer::new(Box::new(tracer)), meter)
    }

    fn by(tracer: BoxedTracer, meter: &Meter) -> Self {
        Self {
            tracer: Arc::new(tracer),
            create_seconds: meter
                .f64_histogram(metric::SANDBOX_CREATE_DURATION)
                .with_unit("s")
                .with_description("From asking for a sandbox until there is one.")
                .with_boundaries(CREATE_SECONDS.to_vec())
                .build(),
            active: meter
                .i64_up_down_counter(metric::SANDBOX_ACTIVE)
                .with_unit("{sandbox}")
                .with_description("Sandboxes made by this process, and not known to be gone.")
                .build(),
            events: meter
                .u64_counter(metric::EVENTS_SENT)
                .with_unit("{event}")
                .with_description("Events of runs that were handed to the application.")
                .build(),
        }
    }

    /// A sandbox is asked for; `context` has the caller's span, if there is one.
    #[must_use]
    pub fn creating(&self, template: impl Into<String>, context: &Context) -> Creating {
        let template = template.into();
        let builder = self
            .tracer
            .span_builder(span::SANDBOX_CREATE)
            .with_kind(SpanKind::Client)
            .with_attributes([KeyValue::new(key::SANDBOX_TEMPLATE_ID, template.clone())]);
        Creating {
            span: self.tracer.build_with_context(builder, context),
            instruments: self.clone(),
            caller: context.clone(),
            template,
            began: Instant::now(),
            is_over: false,
        }
    }

    /// A sandbox that somebody else made, and this process has connected to. It is not counted among the active ones.
    #[must_use]
    pub fn connected(
        &self,
        id: impl Into<String>,
        template: Option<String>,
        context: &Context,
    ) -> Sandbox {
        Sandbox {
            instruments: self.clone(),
            context: context.clone(),
            id: id.into(),
            template,
            is_counted: Arc::new(AtomicBool::new(false)),
        }
    }

    /// The application was given an event.
    pub fn event(&self, event: &Event) {
        let kind: Cow<'static, str> = match event.content() {
            Content::Supervisor(body) => body.kind().into(),
            Content::Agent(_) => "agent".into(),
            // Its word is not taken over: what comes out of a sandbox must not make a new series each time.
            Content::Unknown { .. } => names::OTHER.into(),
        };
        self.events.add(1, &[KeyValue::new(key::EVENT_TYPE, kind)]);
    }
}

impl Creating {
    /// There is a sandbox.
    #[must_use]
    pub fn done(mut self, id: impl Into<String>) -> Sandbox {
        let id = id.into();
        self.is_over = true;
        self.span
            .set_attribute(KeyValue::new(key::SANDBOX_ID, id.clone()));
        self.span.end();
        let template = KeyValue::new(key::SANDBOX_TEMPLATE_ID, self.template.clone());
        self.measure(std::slice::from_ref(&template));
        self.instruments.active.add(1, &[template]);
        let context = if self.caller.span().span_context().is_valid() {
            self.caller.clone()
        } else {
            let created = self.span.span_context().clone();
            self.caller.with_remote_span_context(created)
        };
        Sandbox {
            instruments: self.instruments.clone(),
            context,
            id,
            template: Some(self.template.clone()),
            is_counted: Arc::new(AtomicBool::new(true)),
        }
    }

    /// There will be none. `error_type` is one word of few, for instance `rate_limited`.
    pub fn failed(mut self, error_type: &'static str, message: impl Into<Cow<'static, str>>) {
        self.fail(error_type, message.into());
    }

    fn fail(&mut self, error_type: &'static str, message: Cow<'static, str>) {
        self.is_over = true;
        fail(&mut self.span, error_type, message);
        self.measure(&[
            KeyValue::new(key::SANDBOX_TEMPLATE_ID, self.template.clone()),
            KeyValue::new(key::ERROR_TYPE, error_type),
        ]);
    }

    fn measure(&self, attributes: &[KeyValue]) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.instruments.create_seconds.record(seconds, attributes);
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        if !self.is_over {
            self.fail(names::ABANDONED, "nobody waited for the sandbox".into());
        }
    }
}

impl Sandbox {
    /// What a run in it is to be given: the current context if it has a span, else the one that the sandbox was made in, else
    /// one with `sandbox.create` as its span.
    #[must_use]
    pub fn context(&self) -> Context {
        let current = Context::current();
        if current.span().span_context().is_valid() {
            current
        } else {
            self.context.clone()
        }
    }

    /// The application was given an event of a run in it.
    pub fn event(&self, event: &Event) {
        self.instruments.event(event);
    }

    /// The sandbox is asked to end.
    #[must_use]
    pub fn killing(&self) -> Killing {
        let tracer = &self.instruments.tracer;
        let builder = tracer
            .span_builder(span::SANDBOX_KILL)
            .with_kind(SpanKind::Client)
            .with_attributes(
                [KeyValue::new(key::SANDBOX_ID, self.id.clone())]
                    .into_iter()
                    .chain(self.template()),
            );
        Killing {
            span: tracer.build_with_context(builder, &self.context()),
            sandbox: self.clone(),
            is_over: false,
        }
    }

    /// The sandbox turned out to be gone, without having been asked. Said again, it changes nothing.
    pub fn gone(&self) {
        if self.is_counted.swap(false, Ordering::Relaxed) {
            let template: Vec<_> = self.template().collect();
            self.instruments.active.add(-1, &template);
        }
    }

    fn template(&self) -> impl Iterator<Item = KeyValue> + use<> {
        let template = self.template.clone().into_iter();
        template.map(|template| KeyValue::new(key::SANDBOX_TEMPLATE_ID, template))
    }
}

impl Killing {
    /// It is gone.
    pub fn done(mut self) {
        self.is_over = true;
        self.span.end();
        self.sandbox.gone();
    }

    /// It could not be ended, or nobody knows. `error_type` is one word of few.
    pub fn failed(mut self, error_type: &'static str, message: impl Into<Cow<'static, str>>) {
        self.is_over = true;
        fail(&mut self.span, error_type, message.into());
    }
}

impl Drop for Killing {
    fn drop(&mut self) {
        if !self.is_over {
            let message = "nobody waited for the sandbox's end";
            fail(&mut self.span, names::ABANDONED, message.into());
        }
    }
}

fn fail(span: &mut BoxedSpan, error_type: &'static str, message: Cow<'static, str>) {
    span.set_attribute(KeyValue::new(key::ERROR_TYPE, error_type));
    span.set_status(Status::error(message));
    span.end();
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("sandtrace-client")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}
