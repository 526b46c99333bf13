//! What this machine has: for the manifest of a run and for `iapo doctor`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A machine, as far as it can be asked without linking to anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system and architecture, for example `linux x86_64`.
    pub system: String,
    /// The processor's name, where the system tells it.
    pub cpu: Option<String>,
    /// Threads that this process may use.
    pub threads: usize,
    /// Vector extensions that the fused operators ask for: `avx2`, `fma`, `avx512f`, `neon`.
    pub cpu_features: Vec<String>,
    /// Memory in bytes, the smaller of the machine's and the control group's.
    pub memory_bytes: Option<u64>,
    /// CUDA devices the driver shows, with their library; empty without a driver.
    pub cuda: Option<Cuda>,
}

/// A CUDA driver that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cuda {
    /// The driver's library.
    pub library: PathBuf,
    /// The driver's version, where the kernel module tells it.
    pub driver: Option<String>,
    /// Device nodes, `/dev/nvidia0` and on.
    pub devices: usize,
}

impl Machine {
    /// Asks the machine.
    pub fn detect() -> Self {
        Machine {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: cpu_name(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_features: cpu_features(),
            memory_bytes: memory(),
            cuda: cuda(),
        }
    }
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn cpu_features() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [("neon", true)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found: [(&str, bool); 0] = [];
    found
        .into_iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| name.to_string())
        .collect()
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let total = line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024;
    // In a container the limit of its control group is what can be used.
    let limit = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .filter_map(|path| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    })
    .min();
    Some(limit.map_or(total, |limit| limit.min(total)))
}

fn cuda() -> Option<Cuda> {
    let name = "libcuda.so.1";
    let mut folders: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .map(|paths| std::env::split_paths(&paths).collect())
        .unwrap_or_default();
    folders.extend(
        [
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/lib64",
            "/usr/lib",
            "/usr/lib/wsl/lib",
            "/usr/local/nvidia/lib64",
        ]
        .map(PathBuf::from),
    );
    let library = folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.exists())?;
    let driver = std::fs::read_to_string("/sys/module/nvidia/version")
        .ok()
        .map(|text| text.trim().to_string());
    let devices = (0..64)
        .take_while(|index| Path::new(&format!("/dev/nvidia{index}")).exists())
        .count();
    Some(Cuda {
        library,
        driver,
        devices,
    })
}

/// The most memory this process has held so far, in bytes, where the system tells it.
pub fn peak_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_answers() {
        let machine = Machine::detect();
        assert!(machine.threads >= 1);
        if cfg!(target_os = "linux") {
            assert!(machine.memory_bytes.unwrap() > 1 << 20);
            let before = peak_memory_bytes().unwrap();
            let held = vec![1u8; 32 << 20];
            assert!(std::hint::black_box(&held).contains(&1));
            assert!(peak_memory_bytes().unwrap() >= before);
        }
    }
}
