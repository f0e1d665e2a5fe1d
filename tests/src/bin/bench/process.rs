//! What a process used, from `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// Kernel ticks of `/proc/<pid>/stat` in a second: 100 on every Linux that Rust's `std` runs on.
const TICKS_PER_SECOND: u32 = 100;

/// Time on a processor since the process started, of all its threads.
pub(crate) fn processor_time(pid: i32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The name may hold spaces and parentheses; what follows the last one is numbers. utime and stime are the 14th and
    // 15th of all (proc(5)).
    let (_, after_name) = stat.rsplit_once(')').context("no name in stat")?;
    let mut numbers = after_name.split_whitespace().skip(11);
    let mut ticks = || -> Result<u32> { Ok(numbers.next().context("stat is too short")?.parse()?) };
    Ok(Duration::from_secs(1) * (ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// The same of several processes together.
pub(crate) fn processor_times(pids: &[i32]) -> Result<Duration> {
    pids.iter().map(|pid| processor_time(*pid)).sum()
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
    /// Of what is resident now, what is its own and no file's.
    pub(crate) anonymous: u64,
}

/// The memory a process takes.
pub(crate) fn memory(pid: i32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let bytes = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kibibytes: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1024)
    };
    Ok(Memory { resident: bytes("VmRSS")?, peak: bytes("VmHWM")?, anonymous: bytes("RssAnon")? })
}

/// Bytes as megabytes (10^6).
#[expect(clippy::cast_precision_loss, reason = "no process is larger than 2^52 bytes")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The children of a process.
pub(crate) fn children(pid: i32) -> Result<Vec<i32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    text.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let memory = memory(pid).unwrap();
        assert!(memory.resident > 0 && memory.resident <= memory.peak && memory.anonymous < memory.resident);
        let begin = processor_time(pid).unwrap();
        let mut sum = 0_u64;
        while processor_times(&[pid]).unwrap() == begin {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(children(pid).is_ok());
    }
}
