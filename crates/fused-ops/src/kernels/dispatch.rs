//! Compiles a kernel for every instruction set and picks one when it runs.

/// Defines a function that runs a kernel for the instruction set in use: one kernel generic over
/// [`super::simd::Simd`], which then sees 16 lanes everywhere, or three.
macro_rules! dispatched {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $out:ty)? = $generic:ident) => {
        $crate::kernels::dispatch::dispatched! {
            $(#[$meta])*
            $vis fn $name($($arg: $kind),*) $(-> $out)? = {
                avx512: $generic::<$crate::kernels::x86::Avx512>,
                avx2: $generic::<$crate::kernels::simd::Pair<$crate::kernels::x86::Avx2>>,
                portable: $generic::<$crate::kernels::simd::Pair<$crate::kernels::portable::Portable>>,
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $out:ty)? = {
        avx512: $avx512:path, avx2: $avx2:path, portable: $portable:path $(,)?
    }) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name($($arg: $kind),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::kernels::instruction_set::{InstructionSet, in_use};
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn avx512($($arg: $kind),*) $(-> $out)? {
                    // SAFETY: as the caller promises; this code is compiled for AVX-512.
                    unsafe { $avx512($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn avx2($($arg: $kind),*) $(-> $out)? {
                    // SAFETY: as the caller promises; this code is compiled for AVX2.
                    unsafe { $avx2($($arg),*) }
                }
                match in_use() {
                    // SAFETY: as the caller promises; a set is in use where the processor has it.
                    InstructionSet::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: likewise.
                    InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    InstructionSet::Portable => {}
                }
            }
            // SAFETY: as the caller promises; every processor runs the portable code.
            unsafe { $portable($($arg),*) }
        }
    };
}
pub(crate) use dispatched;
