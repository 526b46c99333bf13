//! Buffers that are written before they are read, and work split over the thread pool.

use std::cell::Cell;

use rayon::prelude::*;

use crate::threads::splits_work;

/// Memory for `len` values that a kernel is about to fill.
pub(crate) struct Buffer {
    values: Vec<f32>,
    len: usize,
}

/// Scratch memory that begins at a cache line.
pub(crate) struct Scratch {
    values: Vec<f32>,
}

impl Scratch {
    /// Uninitialised memory for `len` values.
    pub(crate) fn new(len: usize) -> Self {
        Scratch {
            values: Vec::with_capacity(len + 15),
        }
    }

    /// Where kernels write and then read.
    pub(crate) fn pointer(&mut self) -> Pointer {
        Pointer(self.start().cast_mut())
    }

    /// Where kernels read what was written.
    pub(crate) fn start(&self) -> *const f32 {
        let start = self.values.as_ptr();
        start.wrapping_add(start.align_offset(64).min(15))
    }
}

impl Buffer {
    /// Uninitialised memory.
    pub(crate) fn new(len: usize) -> Self {
        Buffer {
            values: Vec::with_capacity(len),
            len,
        }
    }

    /// Where the kernel writes.
    pub(crate) fn pointer(&mut self) -> Pointer {
        Pointer(self.values.as_mut_ptr())
    }

    /// The filled memory.
    ///
    /// # Safety
    /// Every value must have been written.
    pub(crate) unsafe fn filled(mut self) -> Vec<f32> {
        // SAFETY: the capacity is `len`, and every value was written.
        unsafe { self.values.set_len(self.len) };
        self.values
    }
}

thread_local! {
    /// What [`Working`] memory was last.
    static WORKING: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Working memory of a small kernel, which its thread keeps for the next: a tile of attention takes less
/// time than the C library for a few such blocks.
pub(crate) struct Working {
    values: Vec<f32>,
}

impl Working {
    /// Memory for `len` values, which are whatever the kernel before left.
    pub(crate) fn new(len: usize) -> Self {
        let mut values = WORKING.take();
        if values.len() < len {
            values.resize(len, 0.0);
        }
        Working { values }
    }

    /// Parts of these lengths, one after the other; together at most what was asked for.
    pub(crate) fn parts<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [f32]; N] {
        let mut rest = self.values.as_mut_slice();
        lengths.map(|length| {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(length);
            rest = behind;
            part
        })
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        WORKING.set(std::mem::take(&mut self.values));
    }
}

/// A pointer that tasks share; each writes to places of its own.
#[derive(Clone, Copy)]
pub(crate) struct Pointer(*mut f32);

// SAFETY: what it points to is plain numbers, and each task writes places of its own.
unsafe impl Send for Pointer {}
// SAFETY: likewise.
unsafe impl Sync for Pointer {}

impl Pointer {
    /// Shares `values` among tasks.
    pub(crate) fn to(values: &mut [f32]) -> Self {
        Pointer(values.as_mut_ptr())
    }

    /// Shares `values` among tasks that only read them.
    pub(crate) fn from(values: &[f32]) -> Self {
        Pointer(values.as_ptr().cast_mut())
    }

    /// Shares what is at `address` among tasks.
    pub(crate) fn of(address: *mut f32) -> Self {
        Pointer(address)
    }

    /// The address of the value at `index`.
    ///
    /// # Safety
    /// `index` must lie within the memory that the pointer was made from.
    pub(crate) unsafe fn at(self, index: usize) -> *mut f32 {
        // SAFETY: the index lies within the memory, as the caller promises.
        unsafe { self.0.add(index) }
    }
}

/// Runs `task(0..tasks)` on the thread pool, or on this thread where that is what it is for.
pub(crate) fn parallel(tasks: usize, task: impl Fn(usize) + Sync + Send) {
    if tasks <= 1 || !splits_work() {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
}

/// How many threads [`parallel`] would use.
pub(crate) fn threads_at_hand() -> usize {
    match splits_work() {
        true => rayon::current_num_threads(),
        false => 1,
    }
}

/// Splits `0..len` into runs of `size` and runs `task(start, end)` for each on the thread pool.
/// The runs depend on `size` alone, so a task may reduce over its own.
pub(crate) fn parallel_chunks(len: usize, size: usize, task: impl Fn(usize, usize) + Sync + Send) {
    let size = size.max(1);
    parallel(len.div_ceil(size), |index| {
        task(index * size, ((index + 1) * size).min(len));
    });
}
