//! An allocator that keeps large blocks for the next step.
//!
//! A training step allocates and frees the same few hundred tensors again and again. The C
//! library returns large blocks to the kernel, which then has to clear and map every page anew.
//! [`CachingAllocator`] keeps freed blocks of 32 KiB and more in lists, one for each power of two,
//! and hands them out again; smaller ones go to the system. What it holds, in use or not, is at most
//! twice what was ever in use at once: beyond that, blocks of one list after the other go back. It
//! also aligns large blocks to 64 bytes, so that no vector of 16 lanes straddles two cache lines.
//!
//! Classes nearer to the size waste less and are found less often: batches of text differ in length.
//! With eight classes for each doubling, `iapo replicate --arms vtool-r1 --seeds 1 --set schedule.arm=6`
//! had the kernel map 12 GB, a tenth of its processor time; with one it is 1.2 GB, and the peak is 380
//! MiB instead of 470. What of a block is beyond the size that was asked for is seldom touched.
//!
//! Install it in the binary, where every library below profits:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: fused_ops::allocator::CachingAllocator =
//!     fused_ops::allocator::CachingAllocator;
//! # fn main() {}
//! ```
//!
//! Against keeping the C library's heap with `mallopt` (no mmap, no trimming), forward and
//! backward pass of `examples/training_step.rs` (3 layers, hidden 128, 8,463 packed tokens, fused
//! operators), on two cores shared with other work, 12 steps each:
//!
//! | | system | mallopt | caching |
//! |---|---|---|---|
//! | 1 thread: processor seconds a step, median | 0.930 | 0.668 | 0.682 |
//! | 2 threads: wall seconds of the best step | 1.289 | 0.946 | 0.890 |
//! | 1 thread: seconds in the kernel, all steps | 3.3 | 0.2 | 0.2 |
//!
//! The two are equal within the noise of that machine. This one is taken because it works with
//! every C library, aligns, and can be emptied with [`release`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// The allocator; see the module.
pub struct CachingAllocator;

/// Blocks from this size on are kept.
const SMALLEST: usize = 32 * 1024;
/// Their alignment: a cache line.
const ALIGNMENT: usize = 64;
/// Powers of two from [`SMALLEST`] on: up to 32 GiB.
const CLASSES: usize = 21;

static LISTS: [List; CLASSES] = [const { List::new() }; CLASSES];
/// Bytes in the lists.
static CACHED: AtomicUsize = AtomicUsize::new(0);
/// Bytes of blocks that are in use, and the most that were at once since [`release`].
static USED: AtomicUsize = AtomicUsize::new(0);
static MOST_USED: AtomicUsize = AtomicUsize::new(0);
/// The list that the next block is given back from.
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Whether the system was told to keep large blocks apart.
static APART: AtomicBool = AtomicBool::new(false);

/// Free blocks of one size class, each holding the address of the next in its first bytes.
struct List {
    locked: AtomicBool,
    first: AtomicPtr<u8>,
}

impl List {
    const fn new() -> Self {
        List {
            locked: AtomicBool::new(false),
            first: AtomicPtr::new(null_mut()),
        }
    }

    /// Runs `action` on the first block while holding the list. An allocator cannot wait on a
    /// mutex that might allocate, and the list is held for a few instructions.
    fn with<T>(&self, action: impl FnOnce(&AtomicPtr<u8>) -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        let result = action(&self.first);
        self.locked.store(false, Ordering::Release);
        result
    }

    fn pop(&self) -> *mut u8 {
        self.with(|first| {
            let block = first.load(Ordering::Relaxed);
            if !block.is_null() {
                // SAFETY: a block in the list holds the address of the next.
                first.store(unsafe { block.cast::<*mut u8>().read() }, Ordering::Relaxed);
            }
            block
        })
    }

    /// # Safety
    /// `block` must be free, and of this list's size class.
    unsafe fn push(&self, block: *mut u8) {
        self.with(|first| {
            // SAFETY: the block is larger than an address and aligned.
            unsafe { block.cast::<*mut u8>().write(first.load(Ordering::Relaxed)) };
            first.store(block, Ordering::Relaxed);
        });
    }
}

/// The size class of a layout and the layout of its blocks; `None` for what goes to the system.
fn class_of(layout: Layout) -> Option<(usize, Layout)> {
    let size = layout.size();
    if size < SMALLEST || layout.align() > ALIGNMENT {
        return None;
    }
    let class = size.div_ceil(SMALLEST).next_power_of_two().ilog2() as usize;
    if class >= CLASSES {
        return None;
    }
    let blocks = Layout::from_size_align(SMALLEST << class, ALIGNMENT).ok()?;
    Some((class, blocks))
}

// SAFETY: blocks come from the system with the layout of their class, which is at least as large
// and as aligned as what was asked for, and go back with the same; a block is in a list only
// between dealloc and the next alloc.
unsafe impl GlobalAlloc for CachingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((class, blocks)) = class_of(layout) else {
            // SAFETY: the caller's promises are the system's.
            return unsafe { System.alloc(layout) };
        };
        let used = USED.fetch_add(blocks.size(), Ordering::Relaxed) + blocks.size();
        MOST_USED.fetch_max(used, Ordering::Relaxed);
        let block = LISTS[class].pop();
        if block.is_null() {
            if !APART.swap(true, Ordering::Relaxed) {
                keep_large_blocks_apart();
            }
            // SAFETY: a class's layout is never of size 0.
            return unsafe { System.alloc(blocks) };
        }
        CACHED.fetch_sub(blocks.size(), Ordering::Relaxed);
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class_of(layout).is_none() {
            // SAFETY: the caller's promises are the system's.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: as the caller promises.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block is new and at least as large.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((class, blocks)) = class_of(layout) else {
            // SAFETY: a layout without a class came from the system as it is.
            return unsafe { System.dealloc(block, layout) };
        };
        let used = USED.fetch_sub(blocks.size(), Ordering::Relaxed) - blocks.size();
        let cached = CACHED.fetch_add(blocks.size(), Ordering::Relaxed) + blocks.size();
        // SAFETY: the caller gives the block up, and its layout says its class.
        unsafe { LISTS[class].push(block) };
        let most = MOST_USED.load(Ordering::Relaxed);
        let mut beyond = (used + cached).saturating_sub(2 * most);
        while beyond > 0 {
            match give_back_one() {
                0 => break,
                bytes => beyond = beyond.saturating_sub(bytes),
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return null_mut();
        };
        match (class_of(layout), class_of(wanted)) {
            // SAFETY: both layouts are the system's own.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (Some((old, _)), Some((new, _))) if old == new => block,
            // SAFETY: the new block is distinct and holds the smaller of both sizes; the old one is given
            // up once, with its own layout.
            _ => unsafe {
                let moved = self.alloc(wanted);
                if !moved.is_null() {
                    block.copy_to_nonoverlapping(moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

/// Bytes that are kept and not in use.
pub fn cached_bytes() -> usize {
    CACHED.load(Ordering::Relaxed)
}

/// GNU's C library learns to put ever larger blocks amid small ones, and there they stay when they are given
/// back: after a stage of training twice the memory that was in use. With a threshold of our own it does not learn.
fn keep_large_blocks_apart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the function takes any parameter and value, and allocates nothing.
    unsafe {
        use std::ffi::c_int;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        const MMAP_THRESHOLD: c_int = -3;
        mallopt(MMAP_THRESHOLD, 256 * 1024);
    }
}

/// Gives a block of the next list that has one back to the system; its bytes, 0 where no list has one.
fn give_back_one() -> usize {
    for _ in 0..LISTS.len() {
        let class = NEXT.fetch_add(1, Ordering::Relaxed) % LISTS.len();
        let bytes = give_back(class);
        if bytes > 0 {
            return bytes;
        }
    }
    0
}

/// Gives a block of this class back to the system; its bytes, 0 where the list is empty.
fn give_back(class: usize) -> usize {
    let size = SMALLEST << class;
    let Ok(blocks) = Layout::from_size_align(size, ALIGNMENT) else {
        return 0;
    };
    let block = LISTS[class].pop();
    if block.is_null() {
        return 0;
    }
    CACHED.fetch_sub(size, Ordering::Relaxed);
    // SAFETY: blocks of this class were allocated with this layout.
    unsafe { System.dealloc(block, blocks) };
    size
}

/// Gives every kept block back to the system, for use between phases of different sizes.
pub fn release() {
    for class in 0..LISTS.len() {
        while give_back(class) > 0 {}
    }
    MOST_USED.store(USED.load(Ordering::Relaxed), Ordering::Relaxed);
    // GNU's C library keeps what was freed amid what is in use.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the function takes any padding and touches free memory alone.
    unsafe {
        unsafe extern "C" {
            fn malloc_trim(padding: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_large_enough_and_not_wasteful() {
        for size in (SMALLEST..40 * SMALLEST)
            .step_by(997)
            .chain([SMALLEST, 1 << 30, 1 << 35])
        {
            let layout = Layout::from_size_align(size, 4).unwrap();
            let (class, blocks) = class_of(layout).unwrap();
            assert!(blocks.size() >= size && blocks.size() < 2 * size, "{size}");
            // The class says the size, as `release` assumes.
            assert_eq!(blocks.size(), SMALLEST << class);
        }
        assert!(class_of(Layout::from_size_align(SMALLEST - 1, 4).unwrap()).is_none());
        assert!(class_of(Layout::from_size_align((1 << 35) + 1, 4).unwrap()).is_none());
        assert!(class_of(Layout::from_size_align(SMALLEST, 128).unwrap()).is_none());
    }

    #[test]
    fn blocks_come_back_and_zeroed_ones_are_zero() {
        let allocator = CachingAllocator;
        // A size of no other test, so that no other thread takes the block.
        let layout = Layout::from_size_align(3_333_333, 8).unwrap();
        // SAFETY: each block is used within its size and given back once, with its layout.
        unsafe {
            let block = allocator.alloc(layout);
            assert_eq!(block as usize % ALIGNMENT, 0);
            block.write_bytes(7, layout.size());
            allocator.dealloc(block, layout);
            assert!(cached_bytes() >= layout.size());
            let again = allocator.alloc_zeroed(layout);
            assert_eq!(again, block);
            assert!(
                std::slice::from_raw_parts(again, layout.size())
                    .iter()
                    .all(|&b| b == 0)
            );
            again.write_bytes(9, layout.size());
            let grown = allocator.realloc(again, layout, 2 * layout.size());
            let kept = std::slice::from_raw_parts(grown, layout.size());
            assert!(kept.iter().all(|&byte| byte == 9));
            allocator.dealloc(
                grown,
                Layout::from_size_align(2 * layout.size(), 8).unwrap(),
            );
        }
        release();
    }

    /// Blocks of other sizes than those that are asked for next do not pile up.
    #[test]
    fn at_most_twice_is_held_of_what_was_in_use_at_once() {
        let layout =
            |index: usize| Layout::from_size_align((16 << 20) + index * 999_983, 8).unwrap();
        for index in 0..40 {
            // SAFETY: the block is not used, and given back once with its layout.
            unsafe {
                let block = CachingAllocator.alloc(layout(index));
                CachingAllocator.dealloc(block, layout(index));
            }
        }
        // Other tests' blocks are counted too; none has as many in use.
        assert!(cached_bytes() < 200 << 20, "{}", cached_bytes());
    }

    #[test]
    fn threads_share_the_lists() {
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                scope.spawn(move || {
                    let layout = Layout::from_size_align(70_001, 8).unwrap();
                    for _ in 0..2_000 {
                        // SAFETY: the block is used within its size and given back once.
                        unsafe {
                            let block = CachingAllocator.alloc(layout);
                            block.write_bytes(thread, 64);
                            block.add(layout.size() - 1).write(thread);
                            assert_eq!(block.add(63).read(), thread);
                            assert_eq!(block.add(layout.size() - 1).read(), thread);
                            CachingAllocator.dealloc(block, layout);
                        }
                    }
                });
            }
        });
    }
}
