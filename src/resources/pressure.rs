//! Pressure stall information: the share of time in which somebody waited for a resource.

use std::fs;

use sandtrace_client::wire::Pressure;

/// Reads /proc/pressure; `None` where the kernel has none, or it is switched off.
#[must_use]
pub fn read() -> Option<Pressure> {
    let text = |resource: &str| fs::read_to_string(format!("/proc/pressure/{resource}")).ok();
    of(&text("cpu")?, &text("memory")?, &text("io")?)
}

fn of(cpu: &str, memory: &str, io: &str) -> Option<Pressure> {
    Some(Pressure {
        // For the whole machine the kernel defines no `full` of the CPU.
        cpu_some: average(cpu, "some")?,
        memory_some: average(memory, "some")?,
        memory_full: average(memory, "full")?,
        io_some: average(io, "some")?,
        io_full: average(io, "full")?,
    })
}

/// Of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, the average over ten seconds, percent.
pub(super) fn average(text: &str, kind: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    let value = line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("avg10="))?;
    value.parse().ok().filter(|share: &f64| share.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_seconds_of_each_kind_are_read() {
        let cpu = "some avg10=12.50 avg60=3.00 avg300=1.00 total=9\n";
        let memory =
            "some avg10=1.00 avg60=0 avg300=0 total=1\nfull avg10=0.50 avg60=0 avg300=0 total=1\n";
        let io = "some avg10=99.00 avg60=0 avg300=0 total=1\nfull avg10=98.00 avg60=0 avg300=0 total=1\n";
        let expected = Pressure {
            cpu_some: 12.5,
            memory_some: 1.0,
            memory_full: 0.5,
            io_some: 99.0,
            io_full: 98.0,
        };
        assert_eq!(of(cpu, memory, io), Some(expected));
    }

    #[test]
    fn what_is_no_pressure_is_none() {
        let good = "some avg10=0.00 total=0\nfull avg10=0.00 total=0\n";
        assert!(of(good, good, good).is_some());
        for bad in [
            "",
            "some",
            "some avg60=1.00\n",
            "some avg10=\n",
            "some avg10=NaN\n",
            "full avg10=0.00\n",
        ] {
            assert_eq!(of(bad, good, good), None, "{bad:?}");
            assert_eq!(of(good, bad, good), None, "{bad:?}");
        }
    }
}
