//! What a process uses, from /proc, under the names that every Prometheus client gives it.
//!
//! The collector of the prometheus crate has the same from four more crates, and counts processor time in whole seconds, of
//! which a rate says little.

use std::fs;

use prometheus::{
    Counter, IntGauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Ticks a second in which Linux tells processor time to programs (`USER_HZ`), on every architecture that it has with
/// our targets.
const TICKS: f64 = 100.0;

/// Reads the values anew for each scrape.
#[derive(Debug)]
pub(crate) struct Process {
    cpu: Counter,
    open_files: IntGauge,
    max_files: IntGauge,
    virtual_memory: IntGauge,
    resident_memory: IntGauge,
    start: IntGauge,
    threads: IntGauge,
}

/// What /proc/self/stat and /proc/self/status say.
#[derive(Debug, Default, PartialEq)]
struct Use {
    cpu_seconds: f64,
    /// Since the system was started.
    start_seconds: f64,
    virtual_octets: i64,
    resident_octets: i64,
    threads: i64,
}

impl Use {
    fn read(stat: &str, status: &str) -> Option<Self> {
        // The name of the program is in parentheses, and may have any in itself (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')')?;
        let field = |number: usize| fields.split_whitespace().nth(number - 3)?.parse::<f64>().ok();
        let line = |key: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
            rest.split_whitespace().next()?.parse::<i64>().ok()
        };
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS,
            start_seconds: field(22)? / TICKS,
            virtual_octets: line("VmSize:")? * 1024,
            resident_octets: line("VmRSS:")? * 1024,
            threads: line("Threads:")?,
        })
    }

    fn now() -> Option<Self> {
        let file = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        Self::read(&file("stat")?, &file("status")?)
    }
}

/// Seconds from the epoch to the start of the system.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

fn open_files() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

/// None: no limit, or not known.
fn max_files() -> Option<i64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    soft.split_whitespace().next()?.parse().ok()
}

impl Process {
    /// Of this process.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let gauge = |name, help| IntGauge::with_opts(Opts::new(name, help));
        let process = Self {
            cpu: Counter::with_opts(Opts::new(
                "process_cpu_seconds_total",
                "Processor time, of the program and of the system for it.",
            ))?,
            open_files: gauge("process_open_fds", "Open file descriptors.")?,
            max_files: gauge("process_max_fds", "File descriptors that may be open.")?,
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory.")?,
            resident_memory: gauge("process_resident_memory_bytes", "Resident memory.")?,
            start: gauge("process_start_time_seconds", "When the process was started, since the epoch.")?,
            threads: gauge("process_threads", "Threads.")?,
        };
        if let (Some(now), Some(boot)) = (Use::now(), boot_time()) {
            process.start.set((boot + now.start_seconds) as i64);
        }
        Ok(process)
    }

    fn gauges(&self) -> [&IntGauge; 6] {
        let Self { open_files, max_files, virtual_memory, resident_memory, start, threads, .. } = self;
        [open_files, max_files, virtual_memory, resident_memory, start, threads]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.cpu.desc().into_iter().chain(self.gauges().into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(now) = Use::now() {
            // Of two scrapes at a time one may come with less than the other has told.
            self.cpu.inc_by((now.cpu_seconds - self.cpu.get()).max(0.0));
            self.virtual_memory.set(now.virtual_octets);
            self.resident_memory.set(now.resident_octets);
            self.threads.set(now.threads);
        }
        for (gauge, value) in [(&self.open_files, open_files()), (&self.max_files, max_files())] {
            if let Some(value) = value {
                gauge.set(value);
            }
        }
        self.cpu.collect().into_iter().chain(self.gauges().into_iter().flat_map(Collector::collect)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 150 0 0 20 0 5 0 12345 1 2 3";
        let status = "Name:\ta\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t5\n";
        let expected = Use {
            cpu_seconds: 4.0,
            start_seconds: 123.45,
            virtual_octets: 2 << 20,
            resident_octets: 1 << 20,
            threads: 5,
        };
        assert_eq!(Use::read(stat, status), Some(expected));
        assert_eq!(Use::read("", status), None);
        assert_eq!(Use::read(stat, ""), None);
    }

    #[test]
    fn a_process_has_all_of_it() {
        let process = Process::new().unwrap();
        let spent = std::time::Instant::now();
        while spent.elapsed().as_millis() < 50 {}
        let families = process.collect();
        assert_eq!(families.len(), 7);
        let values = process.gauges().map(IntGauge::get);
        assert!(values.iter().all(|value| *value > 0), "{values:?}");
        assert!(process.cpu.get() >= 0.03, "{}", process.cpu.get());
        let epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = epoch.as_secs() as i64 - process.start.get();
        assert!((0..3600).contains(&age), "started {age} s ago");
    }
}
