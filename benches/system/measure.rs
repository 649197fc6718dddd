//! CPU, memory and latency figures of this process and of a child, read from the kernel.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

const THIS: &str = "/proc/self";

/// CPU time of every thread that existed at one moment, by thread id.
pub struct CpuMark {
    at: Instant,
    process_s: f64,
    threads: HashMap<String, (String, f64)>,
}

/// What happened between two marks. Times in seconds.
pub struct CpuSpent {
    pub wall_s: f64,
    pub process_s: f64,
    /// CPU of librdkafka's own threads; the rest of `process_s` is ours.
    pub librdkafka_s: f64,
}

impl CpuMark {
    pub fn now() -> CpuMark {
        CpuMark { at: Instant::now(), process_s: process_cpu_s(), threads: thread_cpu(Path::new(THIS)) }
    }

    pub fn spent(&self) -> CpuSpent {
        let process_s = process_cpu_s() - self.process_s;
        let librdkafka_s = thread_cpu(Path::new(THIS))
            .into_iter()
            .filter(|(_, (name, _))| name.starts_with("rdk:"))
            .map(|(id, (_, after))| after - self.threads.get(&id).map_or(0.0, |(_, before)| *before))
            .sum();
        CpuSpent { wall_s: self.at.elapsed().as_secs_f64(), process_s, librdkafka_s }
    }
}

fn process_cpu_s() -> f64 {
    // SAFETY: `getrusage` fills the whole struct, for which all-zero bytes are a valid value.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// CPU time of the process number `id` so far, in seconds, in steps of 10 ms.
pub fn process_cpu_of(id: u32) -> Result<f64, String> {
    let path = format!("/proc/{id}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    // The name before the last parenthesis may hold spaces; user and system time are fields 14 and 15 of the line.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut ticks = fields.split_whitespace().skip(11).map_while(|field| field.parse::<f64>().ok());
    let (Some(user), Some(system)) = (ticks.next(), ticks.next()) else {
        return Err(format!("{path} is not as expected: {stat}"));
    };
    // SAFETY: reads a constant of the system.
    let ticks_per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    Ok((user + system) / ticks_per_s)
}

/// CPU time of librdkafka's threads so far, in seconds, of the process with this folder in `/proc`.
pub fn librdkafka_cpu_of(process: &Path) -> f64 {
    let threads = thread_cpu(process);
    threads.into_values().filter(|(name, _)| name.starts_with("rdk:")).map(|(_, cpu_s)| cpu_s).sum()
}

fn thread_cpu(process: &Path) -> HashMap<String, (String, f64)> {
    let Ok(tasks) = std::fs::read_dir(process.join("task")) else {
        return HashMap::new();
    };
    tasks
        .flatten()
        .filter_map(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            let on_cpu_ns: f64 = stat.split_whitespace().next()?.parse().ok()?;
            let id = task.file_name().to_string_lossy().into_owned();
            Some((id, (name.trim().to_owned(), on_cpu_ns / 1e9)))
        })
        .collect()
}

/// Highest resident memory of this process so far, in MiB.
pub fn rss_peak_mib() -> f64 {
    rss_peak_mib_of(Path::new(THIS))
}

/// The same of the process with this folder in `/proc`.
pub fn rss_peak_mib_of(process: &Path) -> f64 {
    let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        .map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Nanoseconds of the machine's monotonic clock: comparable between processes.
pub fn monotonic_ns() -> u64 {
    // SAFETY: `clock_gettime` fills the struct it is given.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_nanos() as u64
}

/// The `q`-quantile (0 to 1) of the values; NaN when there are none.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
}
