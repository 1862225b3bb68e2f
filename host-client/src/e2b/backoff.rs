//! How long to wait between tries.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(5);

/// Waits that double from 100 ms to 5 s, each shortened by chance by up to a half: of many runs that lost their
/// connections at once, not all come back at once.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(MOST);
        wait.mul_f64(1.0 - 0.5 * chance())
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    let mut byte = [0];
    // Without chance nothing is wrong but that all come at once.
    match getrandom::fill(&mut byte) {
        Ok(()) => f64::from(byte[0]) / 255.0,
        Err(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn waits_grow_up_to_a_bound() {
        let mut backoff = Backoff::new();
        let mut most = 100;
        for _ in 0..20 {
            let wait = backoff.wait();
            assert!(wait >= Duration::from_millis(most / 2), "{wait:?}");
            assert!(wait <= Duration::from_millis(most), "{wait:?}");
            most = (most * 2).min(5000);
        }
    }
}
