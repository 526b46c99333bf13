//! Time and memory of a device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use candle_core::Device;

/// How often memory is looked at.
const EVERY: Duration = Duration::from_millis(2);

/// Seconds that `run` takes, until the device has done all of it.
pub fn seconds<T>(
    device: &Device,
    run: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, f64)> {
    device.synchronize()?;
    let start = Instant::now();
    let found = run()?;
    device.synchronize()?;
    Ok((found, start.elapsed().as_secs_f64()))
}

/// The most memory that was in use while `run` ran, above what was in use before, in bytes. It is looked
/// at every two milliseconds: what is held for less is not seen. On a processor it is the process's own.
pub fn peak<T>(
    device: &Device,
    run: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, u64)> {
    device.synchronize()?;
    fused_ops::allocator::release();
    let before = in_use(device)?;
    let (most, ended) = (AtomicU64::new(before), AtomicBool::new(false));
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                if let Ok(now) = in_use(device) {
                    most.fetch_max(now, Ordering::Relaxed);
                }
                std::thread::sleep(EVERY);
            }
        });
        let found = run().and_then(|found| {
            device.synchronize()?;
            Ok(found)
        });
        ended.store(true, Ordering::Relaxed);
        found
    })?;
    Ok((found, most.load(Ordering::Relaxed).saturating_sub(before)))
}

/// Bytes in use on a device, by whomever.
fn in_use(device: &Device) -> anyhow::Result<u64> {
    match device {
        Device::Cpu => of_process(),
        #[cfg(feature = "cuda")]
        Device::Cuda(card) => {
            let stream = card.cuda_stream();
            let context = stream.context();
            context.bind_to_thread()?;
            let (free, total) = context.mem_get_info()?;
            Ok((total - free) as u64)
        }
        _ => anyhow::bail!("nothing here tells the memory of {:?}", device.location()),
    }
}

fn of_process() -> anyhow::Result<u64> {
    let file = "/proc/self/status";
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {file}, which only Linux has"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(1024 * kib.with_context(|| format!("{file} has no 'VmRSS: N kB'"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_is_held_for_a_while_is_seen() {
        let held = 64 << 20;
        let (_, seen) = peak(&Device::Cpu, || {
            let block = vec![1u8; held];
            std::thread::sleep(20 * EVERY);
            Ok(std::hint::black_box(block).len())
        })
        .unwrap();
        assert!(seen >= held as u64 / 2, "{seen}");
    }
}
