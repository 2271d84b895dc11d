//! What the process itself takes, under the names that every dashboard knows, and which build it is.
//!
//! Read off `/proc` when somebody asks: nothing of it is kept up to date in between.

use std::fs;

use once_cell::sync::Lazy;
use parking_lot::Mutex;
use prometheus::{
    Counter, Gauge, IntGauge, register_counter, register_gauge, register_int_gauge, register_int_gauge_vec,
};

const ONCE: &str = "the name is registered once";

/// The kernel counts time in these, a second; what it tells processes is fixed (`USER_HZ`, proc(5)).
const TICKS: f64 = 100.0;

static FIGURES: Lazy<Mutex<Figures>> = Lazy::new(|| Mutex::new(Figures::register()));

struct Figures {
    cpu: Counter,
    resident: IntGauge,
    virtual_memory: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
}

impl Figures {
    fn register() -> Self {
        let build = "Always 1; its labels name the build";
        let build = register_int_gauge_vec!("moongate_build_info", build, &["version", "profile"]).expect(ONCE);
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), profile]).set(1);
        let gauge = |name: &str, help: &str| -> IntGauge { register_int_gauge!(name, help).expect(ONCE) };
        let started: Gauge =
            register_gauge!("process_start_time_seconds", "When the process started, in seconds since 1970")
                .expect(ONCE);
        started.set(started_at().unwrap_or_default());
        Self {
            cpu: register_counter!("process_cpu_seconds_total", "Time on a processor, in seconds").expect(ONCE),
            resident: gauge("process_resident_memory_bytes", "Memory that is in use, in bytes"),
            virtual_memory: gauge("process_virtual_memory_bytes", "Addresses that are in use, in bytes"),
            open_fds: gauge("process_open_fds", "Open files and sockets"),
            max_fds: gauge("process_max_fds", "The most files and sockets that may be open"),
            threads: gauge("process_threads", "Threads"),
        }
    }

    fn refresh(&self) {
        if let Some(seconds) = cpu_seconds() {
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kibibytes = |name| number_behind(&status, name).map(|it| it.saturating_mul(1024));
        let figures = [
            (&self.resident, kibibytes("VmRSS:")),
            (&self.virtual_memory, kibibytes("VmSize:")),
            (&self.threads, number_behind(&status, "Threads:")),
            (&self.open_fds, open_files()),
            (&self.max_fds, files_max()),
        ];
        for (gauge, figure) in figures {
            if let Some(figure) = figure {
                gauge.set(figure);
            }
        }
    }
}

/// Brings all of them up to date. Reads files: not for a worker.
pub(super) fn refresh() {
    FIGURES.lock().refresh();
}

/// The number behind a word at a line's beginning.
fn number_behind(text: &str, word: &str) -> Option<i64> {
    text.lines().find_map(|it| it.strip_prefix(word))?.split_whitespace().next()?.parse().ok()
}

/// The fields of `/proc/self/stat` behind the program's name, which may hold anything; the first is the third (proc(5)).
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map_or(Vec::new(), |it| it.1.split_whitespace().collect())
}

fn ticks(stat: &str, field: usize) -> Option<f64> {
    fields(stat).get(field - 3)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    Some((ticks(&stat, 14)? + ticks(&stat, 15)?) / TICKS)
}

fn started_at() -> Option<f64> {
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    let machine = fs::read_to_string("/proc/stat").ok()?;
    Some(number_behind(&machine, "btime")? as f64 + ticks(&own, 22)? / TICKS)
}

/// Without the one that looks.
fn open_files() -> Option<i64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as i64 - 1)
}

/// The limit that counts; none is the largest number there is.
fn files_max() -> Option<i64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let soft = limits.lines().find_map(|it| it.strip_prefix("Max open files"))?.split_whitespace().next()?;
    Some(soft.parse().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_may_hold_anything() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 12345 999 42";
        assert_eq!((ticks(stat, 14), ticks(stat, 15), ticks(stat, 22)), (Some(250.0), Some(50.0), Some(12_345.0)));
        assert_eq!(ticks("nonsense", 14), None);
    }

    #[test]
    fn this_process_is_seen() {
        assert!(cpu_seconds().is_some() && started_at().is_some_and(|it| it > 1e9));
        assert!(open_files().is_some_and(|it| it > 2) && files_max().is_some_and(|it| it > 2));
    }
}
