//! How operators share the thread pool.
//!
//! One operator's work is split over all threads, which suits large tensors. A step of a small
//! model is a thousand short operators, and handing out each costs more than it saves: there,
//! whole parts of a batch run [`side_by_side`], the operators of each on one thread. Either way a
//! result is the same bits, since no operator depends on how its work is split.

use std::cell::Cell;

use candle_core::Device;
use rayon::prelude::*;

thread_local! {
    /// Whether operators on this thread keep their work to it.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Restores what held before, also when a task panics.
struct Alone {
    before: bool,
}

impl Alone {
    fn enter() -> Self {
        Alone {
            before: ALONE.replace(true),
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        ALONE.set(self.before);
    }
}

/// Runs `task(0..tasks)` on the threads of the pool, the operators of each task on its own thread;
/// results in the order of the tasks. A single task has all threads; on a device other than the CPU
/// tasks run one after the other.
///
/// candle's own element-wise operators have a pool of their own, which concurrent tasks would wait
/// for: set `CANDLE_NUM_THREADS=1`, as the `iapo` command does.
pub fn side_by_side<R: Send>(
    device: &Device,
    tasks: usize,
    task: impl Fn(usize) -> R + Sync + Send,
) -> Vec<R> {
    if tasks <= 1 || !device.is_cpu() || !splits_work() {
        return (0..tasks).map(task).collect();
    }
    (0..tasks)
        .into_par_iter()
        .with_max_len(1)
        .map(|index| {
            let _alone = Alone::enter();
            task(index)
        })
        .collect()
}

/// The threads of the pool.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// As [`side_by_side`], for results that are large: `take` has them in the order of the tasks, and no more
/// than a few for each thread wait for it. Ends with the first error of `take`.
///
/// # Errors
/// What `take` gives.
pub fn side_by_side_in_turn<R: Send, E>(
    device: &Device,
    tasks: usize,
    task: impl Fn(usize) -> R + Sync + Send,
    mut take: impl FnMut(usize, R) -> Result<(), E>,
) -> Result<(), E> {
    /// Results that wait for each thread: so many that threads seldom wait for the slowest.
    const WAITING: usize = 4;
    let at_once = match device.is_cpu() {
        true => WAITING * threads(),
        false => 1,
    };
    for first in (0..tasks).step_by(at_once) {
        let own = at_once.min(tasks - first);
        // What is left may be a single task: it has all threads then.
        let found = side_by_side(device, own, |index| task(first + index));
        for (index, result) in found.into_iter().enumerate() {
            take(first + index, result)?;
        }
    }
    Ok(())
}

/// Whether an operator on this thread may hand out parts of its work.
pub(crate) fn splits_work() -> bool {
    rayon::current_num_threads() > 1 && !ALONE.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_tasks_keep_to_their_thread() {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        pool.install(|| {
            assert!(splits_work());
            let results = side_by_side(&Device::Cpu, 50, |index| (index, splits_work()));
            assert_eq!(
                results,
                (0..50).map(|index| (index, false)).collect::<Vec<_>>()
            );
            assert!(side_by_side(&Device::Cpu, 1, |_| splits_work())[0]);
            assert!(splits_work());
        });
    }
}
