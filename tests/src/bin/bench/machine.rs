//! The machine: what it is, and who works on which of its processors.

use std::{fs, thread};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::process::Command;

use super::Pinning;

/// The processors of the servers and those of this process, unless everybody has all of them.
#[derive(Debug, Clone)]
pub(crate) struct Processors {
    servers: Option<String>,
    mine: Option<usize>,
}

impl Processors {
    /// The last processor makes the load, the others serve.
    pub(crate) fn divide(pinning: &Pinning) -> Result<Self> {
        let count = thread::available_parallelism()?.get();
        if pinning.no_pinning || count < 2 {
            return Ok(Self { servers: None, mine: None });
        }
        let last = count - 1;
        let servers = pinning.server_cpus.clone().unwrap_or_else(|| format!("0-{}", last - 1));
        Ok(Self { servers: Some(servers), mine: Some(last) })
    }

    /// Keeps this process on its own.
    pub(crate) fn take_mine(&self) -> Result<()> {
        let Some(mine) = self.mine else { return Ok(()) };
        let mut set = CpuSet::new();
        set.set(mine);
        sched_setaffinity(None, &set).context("cannot choose a processor; use --no-pinning")
    }

    /// A command of a server, on the servers' processors.
    pub(crate) fn command(&self, program: &std::path::Path) -> Command {
        match &self.servers {
            None => Command::new(program),
            Some(servers) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(servers).arg(program);
                command
            }
        }
    }
}

/// One line about the machine.
pub(crate) fn describe(processors: &Processors) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = named(&info, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    let memory = named(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal");
    let memory = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or_default() / (1 << 20);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let pinned = match (&processors.servers, processors.mine) {
        (Some(servers), Some(mine)) => format!("servers on processor {servers}, load on {mine}"),
        _ => "nobody pinned".to_owned(),
    };
    format!("{model}, {count} processors, {memory} GiB, Linux {}, load {load}; {pinned}", kernel.trim())
}
