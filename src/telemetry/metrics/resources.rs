//! What the sandbox and the agent's processes use, from the sampler's samples.
//!
//! All are instruments that are told, none that asks: a sample comes when it comes, and what counts from the sandbox's
//! start is told by its growth, so that it counts from the run's.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Meter, UpDownCounter};
use sandtrace_client::wire;

use crate::session::semconv::{key, metric, value};

const BYTES: &str = "By";
const RATIO: &str = "1";

/// What was told of a thing that rises and falls.
#[derive(Debug)]
pub(super) struct Level {
    counter: UpDownCounter<i64>,
    attributes: Vec<KeyValue>,
    told: i64,
}

impl Level {
    pub(super) fn new(counter: UpDownCounter<i64>, attributes: Vec<KeyValue>) -> Self {
        Self {
            counter,
            attributes,
            told: 0,
        }
    }

    fn of(meter: &Meter, name: &'static str, unit: &'static str, about: &'static str) -> Self {
        Self::with(meter, name, unit, about, Vec::new())
    }

    fn with(
        meter: &Meter,
        name: &'static str,
        unit: &'static str,
        about: &'static str,
        attributes: Vec<KeyValue>,
    ) -> Self {
        let counter = meter
            .i64_up_down_counter(name)
            .with_unit(unit)
            .with_description(about)
            .build();
        Self::new(counter, attributes)
    }

    pub(super) fn set(&mut self, now: u64) {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.counter.add(now - self.told, &self.attributes);
        self.told = now;
    }
}

/// What was told of a thing that only rises. Survives a change of identity, for it counts from there.
#[derive(Debug, Clone, Copy, Default)]
struct Risen {
    cpu_seconds: f64,
    sandbox_kills: Option<u64>,
    cgroup_kills: Option<u64>,
}

/// The instruments.
#[derive(Debug)]
pub(super) struct ResourceInstruments {
    risen: Risen,
    cpu_time: Counter<f64>,
    cpu_used: Gauge<f64>,
    memory: Level,
    open_files: Level,
    processes: Level,
    system_cpu: Gauge<f64>,
    system_cpus: Level,
    load: Gauge<f64>,
    system_memory: Level,
    system_memory_limit: Level,
    swap_used: Level,
    swap_free: Level,
    disk_free: Level,
    container_memory: Level,
    container_available: Level,
    stall: Gauge<f64>,
    sandbox_kills: Counter<u64>,
    cgroup_kills: Counter<u64>,
}

impl ResourceInstruments {
    pub(super) fn new(meter: &Meter) -> Self {
        let level = |name, unit, about| Level::of(meter, name, unit, about);
        let gauge = |name: &'static str, unit: &'static str, about: &'static str| {
            let builder = meter.f64_gauge(name).with_unit(unit);
            builder.with_description(about).build()
        };
        let kills = |name: &'static str, about: &'static str| {
            let builder = meter.u64_counter(name).with_unit("{process}");
            builder.with_description(about).build()
        };
        let swap = |state: &'static str| {
            Level::with(
                meter,
                metric::SYSTEM_PAGING_USAGE,
                BYTES,
                "Swap of the sandbox.",
                vec![KeyValue::new(key::PAGING_STATE, state)],
            )
        };
        Self {
            risen: Risen::default(),
            cpu_time: meter
                .f64_counter(metric::PROCESS_CPU_TIME)
                .with_unit("s")
                .with_description("CPU time of the agent and everything it started.")
                .build(),
            cpu_used: gauge(
                metric::PROCESS_CPU_UTILIZATION,
                RATIO,
                "Share of all CPUs that the agent and everything it started use.",
            ),
            memory: level(
                metric::PROCESS_MEMORY_USAGE,
                BYTES,
                "Resident memory of the agent and everything it started; what they share counts for each.",
            ),
            open_files: level(
                metric::PROCESS_OPEN_FILES,
                "{file_descriptor}",
                "Open files of the agent and everything it started.",
            ),
            processes: level(
                metric::TREE_PROCESSES,
                "{process}",
                "Living processes: the agent and everything it started.",
            ),
            system_cpu: gauge(
                metric::SYSTEM_CPU_UTILIZATION,
                RATIO,
                "Share of the sandbox's CPUs in use.",
            ),
            system_cpus: level(metric::SYSTEM_CPU_COUNT, "{cpu}", "CPUs of the sandbox."),
            load: gauge(
                metric::SYSTEM_LOAD,
                "{thread}",
                "Load average of the sandbox over one minute.",
            ),
            system_memory: Level::with(
                meter,
                metric::SYSTEM_MEMORY_USAGE,
                BYTES,
                "Memory of the sandbox that is in use: all less the available.",
                vec![KeyValue::new(key::MEMORY_STATE, value::USED)],
            ),
            system_memory_limit: level(
                metric::SYSTEM_MEMORY_LIMIT,
                BYTES,
                "Memory of the sandbox.",
            ),
            swap_used: swap(value::USED),
            swap_free: swap(value::FREE),
            disk_free: Level::with(
                meter,
                metric::SYSTEM_FILESYSTEM_USAGE,
                BYTES,
                "Disk space that is left where the agent works.",
                vec![KeyValue::new(key::FILESYSTEM_STATE, value::FREE)],
            ),
            container_memory: level(
                metric::CONTAINER_MEMORY_USAGE,
                BYTES,
                "Memory that the agent's cgroup is charged with.",
            ),
            container_available: level(
                metric::CONTAINER_MEMORY_AVAILABLE,
                BYTES,
                "Memory that the limit of the agent's cgroup leaves.",
            ),
            stall: gauge(
                metric::STALL_RATIO,
                RATIO,
                "Share of the last ten seconds in which tasks waited for a resource (PSI).",
            ),
            sandbox_kills: kills(
                metric::SANDBOX_OOM_KILLS,
                "Processes of the sandbox that the kernel killed for memory.",
            ),
            cgroup_kills: kills(
                metric::CGROUP_OOM_KILLS,
                "Processes of the agent's cgroup that the kernel killed for memory.",
            ),
        }
    }

    /// The same for somebody else: levels are told anew, and what rises goes on from here.
    pub(super) fn anew(&self, meter: &Meter) -> Self {
        Self {
            risen: self.risen,
            ..Self::new(meter)
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 processors")]
    pub(super) fn measure(&mut self, sample: &wire::Resources) {
        let sandbox = &sample.sandbox;
        self.system_cpu.record(sandbox.cpu_utilization, &[]);
        self.system_cpus.set(sandbox.cpus);
        self.load.record(sandbox.load_1m, &[]);
        self.system_memory.set(sandbox.memory_used_bytes);
        self.system_memory_limit.set(sandbox.memory_total_bytes);
        self.swap_used.set(sandbox.swap_used_bytes);
        self.swap_free.set(
            sandbox
                .swap_total_bytes
                .saturating_sub(sandbox.swap_used_bytes),
        );
        if let Some(free) = sandbox.disk_free_bytes {
            self.disk_free.set(free);
        }
        if let Some(pressure) = &sandbox.pressure {
            self.stalled(pressure);
        }
        let risen = &mut self.risen;
        grow(
            &mut risen.sandbox_kills,
            sandbox.oom_kills,
            &self.sandbox_kills,
        );
        if let Some(tree) = &sample.tree {
            let worked = tree.cpu_seconds - risen.cpu_seconds;
            if worked >= 0.0 {
                self.cpu_time.add(worked, &[]);
                risen.cpu_seconds = tree.cpu_seconds;
            }
            self.cpu_used
                .record(tree.cpu_used / sandbox.cpus.max(1) as f64, &[]);
            self.memory.set(tree.rss_bytes);
            self.processes.set(tree.processes);
            if let Some(files) = tree.open_files {
                self.open_files.set(files);
            }
        }
        if let Some(cgroup) = &sample.cgroup {
            self.container_memory.set(cgroup.memory_used_bytes);
            if let Some(limit) = cgroup.memory_limit_bytes {
                self.container_available
                    .set(limit.saturating_sub(cgroup.memory_used_bytes));
            }
            grow(
                &mut risen.cgroup_kills,
                cgroup.oom_kills,
                &self.cgroup_kills,
            );
        }
    }

    fn stalled(&self, pressure: &wire::Pressure) {
        let rows = [
            ("cpu", "some", pressure.cpu_some),
            ("memory", "some", pressure.memory_some),
            ("memory", "full", pressure.memory_full),
            ("io", "some", pressure.io_some),
            ("io", "full", pressure.io_full),
        ];
        for (resource, share, percent) in rows {
            let attributes = [
                KeyValue::new(key::PRESSURE_RESOURCE, resource),
                KeyValue::new(key::PRESSURE_SHARE, share),
            ];
            self.stall.record(percent / 100.0, &attributes);
        }
    }
}

/// Tells by how much a figure grew since it was first seen. Zero is told too: that nothing was killed is worth a series.
fn grow(told: &mut Option<u64>, now: Option<u64>, counter: &Counter<u64>) {
    if let Some(now) = now {
        counter.add(now.saturating_sub(told.unwrap_or(now)), &[]);
        *told = Some(now);
    }
}
