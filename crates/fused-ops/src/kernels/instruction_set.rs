//! The instruction set that the kernels use, chosen once for a process.

use std::fmt;
use std::sync::OnceLock;

/// The environment variable that forces an instruction set.
const VARIABLE: &str = "FUSED_OPS_SIMD";

/// An instruction set that the kernels are compiled for. Results are the same bits on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// AVX-512 F, BW, DQ and VL with FMA: 16 lanes.
    Avx512,
    /// AVX2 with FMA: 8 lanes.
    Avx2,
    /// What the compilation target guarantees. Where that has no fused multiply-add, as x86-64, it
    /// is computed in double precision, which is exact and some ten times slower.
    Portable,
}

impl InstructionSet {
    /// All, the widest first.
    pub const ALL: [InstructionSet; 3] = [
        InstructionSet::Avx512,
        InstructionSet::Avx2,
        InstructionSet::Portable,
    ];

    /// What `FUSED_OPS_SIMD` calls it.
    pub fn name(self) -> &'static str {
        match self {
            InstructionSet::Avx512 => "avx512",
            InstructionSet::Avx2 => "avx2",
            InstructionSet::Portable => "portable",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            InstructionSet::Portable => true,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => {
                InstructionSet::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            InstructionSet::Avx2 | InstructionSet::Avx512 => false,
        }
    }

    /// The widest that this processor has.
    fn widest() -> Self {
        let mut available = Self::ALL.into_iter().filter(|set| set.is_available());
        available.next().unwrap_or(InstructionSet::Portable)
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a value of the variable asks for; empty asks for the widest.
fn parse(wanted: &str) -> Result<InstructionSet, String> {
    let accepted: Vec<&str> = InstructionSet::ALL
        .into_iter()
        .filter(|set| set.is_available())
        .map(InstructionSet::name)
        .collect();
    let accepted = accepted.join(", ");
    let Some(set) = InstructionSet::ALL.into_iter().find(|s| s.name() == wanted) else {
        return match wanted {
            "" => Ok(InstructionSet::widest()),
            _ => Err(format!(
                "the environment variable {VARIABLE} is `{wanted}`; set it to one of {accepted} or \
                 leave it unset"
            )),
        };
    };
    if set.is_available() {
        Ok(set)
    } else {
        Err(format!(
            "the environment variable {VARIABLE} asks for {set}, which this processor lacks; set \
             it to one of {accepted} or leave it unset"
        ))
    }
}

/// The choice for this process, or why the variable was refused.
pub(crate) fn choice() -> Result<InstructionSet, &'static str> {
    static CHOICE: OnceLock<Result<InstructionSet, String>> = OnceLock::new();
    let choice = CHOICE.get_or_init(|| {
        let wanted = std::env::var_os(VARIABLE).unwrap_or_default();
        parse(&wanted.to_string_lossy())
    });
    choice.as_ref().copied().map_err(String::as_str)
}

/// The choice, for kernels: operators refuse to run with a variable that was refused.
pub(crate) fn in_use() -> InstructionSet {
    choice().unwrap_or(InstructionSet::Portable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_and_others_refused_with_what_is_accepted() {
        assert_eq!(parse(""), Ok(InstructionSet::widest()));
        assert_eq!(parse("portable"), Ok(InstructionSet::Portable));
        for set in InstructionSet::ALL {
            assert_eq!(parse(set.name()).is_ok(), set.is_available());
        }
        for wrong in ["AVX2", "sse", "avx512 ", "auto"] {
            let refused = parse(wrong).unwrap_err();
            assert!(refused.contains(&format!("`{wrong}`")), "{refused}");
            assert!(refused.contains("portable"), "{refused}");
        }
    }
}
