//! Which instructions this processor has, chosen once at run time; one binary serves all.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// A set of instructions that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// Whatever every processor has.
    Portable,
    /// AVX2 and FMA (x86-64-v3).
    Avx2,
    /// AVX-512 F, BW, VL, DQ (x86-64-v4).
    Avx512,
    /// AVX-512 with bf16 dot products.
    Avx512Bf16,
    /// The tile unit (AMX) with bf16, beside AVX-512 with bf16.
    Amx,
}

impl Isa {
    /// Everything, poorest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// The richest of all: no limit.
    pub const RICHEST: Self = Self::ALL[Self::ALL.len() - 1];

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            match self {
                Self::Portable => true,
                Self::Avx2 => avx2,
                Self::Avx512 => avx512,
                Self::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
                Self::Amx => avx512 && is_x86_feature_detected!("avx512bf16") && tiles_granted(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// Whether it is worth running where it is the best there is. Intel's `vdpbf16ps` starts every second cycle, so without the tile unit it
    /// reaches half of what two f32 multiply-adds a cycle do; there bf16 products are decoded to f32. AMD's reaches twice its f32.
    fn is_worthwhile(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self != Self::Avx512Bf16 || !is_intel()
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            true
        }
    }

    /// The fastest set this processor has.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            let fits = |isa: &&Self| isa.is_available() && isa.is_worthwhile();
            *Self::ALL.iter().rev().find(fits).unwrap_or(&Self::Portable)
        })
    }

    /// The set in use: the detected one, unless [`Isa::limit`] asked for less.
    #[inline]
    pub fn current() -> Self {
        #[cfg(test)]
        if let Some(chosen) = THREAD_CHOICE.get() {
            return chosen;
        }
        Self::detect().min(Self::ALL[LIMIT.load(Ordering::Relaxed) as usize])
    }

    /// Uses nothing richer than `limit` from now on (packed matrices made before must not be used after).
    pub fn limit(limit: Self) {
        LIMIT.store(limit as u8, Ordering::Relaxed);
    }
}

static LIMIT: AtomicU8 = AtomicU8::new(Isa::RICHEST as u8);

/// Whether the processor has a tile unit that multiplies bf16, and the system lets this process use it: Linux gives its 8 KiB of registers only to
/// who asks, once for all threads.
#[cfg(target_arch = "x86_64")]
fn tiles_granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        if std::arch::x86_64::__cpuid(0).eax < 7 || std::arch::x86_64::__cpuid_count(7, 0).edx & (BF16 | TILE) != BF16 | TILE {
            return false;
        }
        #[cfg(target_os = "linux")]
        {
            // From the kernel's `asm/prctl.h`: ask for a component of the extended state, here number 18, tile data.
            const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
            const XFEATURE_XTILEDATA: libc::c_ulong = 18;
            // SAFETY: the call takes two numbers and changes nothing but what this process may use.
            unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
        }
        #[cfg(not(target_os = "linux"))]
        false
    })
}

/// Whether the processor calls itself Intel's.
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

#[cfg(test)]
thread_local! {
    /// The set for one thread, so that a test of another set does not disturb the tests beside it.
    pub(crate) static THREAD_CHOICE: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) };
}

/// Defines functions whose body is compiled once for each instruction set and picked at run time:
/// the compiler vectorises the same Rust with wider registers. Bodies must not contract `a * b + c`, so every set rounds alike.
#[macro_export]
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,bmi2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi2")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
                match $crate::ops::isa::Isa::current() {
                    // SAFETY: `current` returns only what this processor has.
                    $crate::ops::isa::Isa::Avx512 | $crate::ops::isa::Isa::Avx512Bf16 | $crate::ops::isa::Isa::Amx => return unsafe { avx512($($arg),*) },
                    $crate::ops::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::isa::Isa::Portable => {}
                }
            }
            portable($($arg),*)
        }
    };
}
