//! One block of a scan, walked without computing its pixels.

use super::bits::{Bits, Fault, Huffman};

/// What a scan brings: coefficients `start..=end`, from bit `low`; `high` is not 0 when it refines.
#[derive(Clone, Copy)]
pub(super) struct Band {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) high: u8,
    pub(super) low: u8,
}

/// A component of a scan, with its tables.
pub(super) struct Member {
    pub(super) index: usize,
    pub(super) dc: Option<Huffman>,
    pub(super) ac: Option<Huffman>,
}

fn table(table: &Option<Huffman>) -> Result<&Huffman, Fault> {
    table.as_ref().ok_or(Fault::BadCode)
}

pub(super) fn sequential(bits: &mut Bits<'_>, member: &Member) -> Result<(), Fault> {
    let (dc, ac) = (table(&member.dc)?, table(&member.ac)?);
    let size = bits.symbol(dc)?;
    if size > 16 {
        return Err(Fault::BadCode);
    }
    bits.take(u32::from(size))?;
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(ac)?;
        let (run, size) = (usize::from(symbol >> 4), symbol & 15);
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => break,
            _ => {
                k += run + 1;
                bits.take(u32::from(size))?;
            }
        }
        if k > 64 {
            return Err(Fault::BadCode);
        }
    }
    Ok(())
}

pub(super) fn progressive(
    bits: &mut Bits<'_>,
    member: &Member,
    band: Band,
    nonzero: &mut u64,
    skipped_blocks: &mut u32,
) -> Result<(), Fault> {
    match (band.start, band.high) {
        (0, 0) => {
            let size = bits.symbol(table(&member.dc)?)?;
            if size > 16 {
                return Err(Fault::BadCode);
            }
            bits.take(u32::from(size))?;
            Ok(())
        }
        (0, _) => Ok(bits.take(1).map(|_| ())?),
        (_, 0) => first_pass(bits, member, band, nonzero, skipped_blocks),
        _ => refinement(bits, member, band, nonzero, skipped_blocks),
    }
}

/// Figure G.3 of the standard.
fn first_pass(
    bits: &mut Bits<'_>,
    member: &Member,
    band: Band,
    nonzero: &mut u64,
    skipped_blocks: &mut u32,
) -> Result<(), Fault> {
    if *skipped_blocks > 0 {
        *skipped_blocks -= 1;
        return Ok(());
    }
    let ac = table(&member.ac)?;
    let mut k = band.start;
    while k <= band.end {
        let symbol = bits.symbol(ac)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => {
                *skipped_blocks = (1 << run) - 1 + bits.take(run as u32)?;
                break;
            }
            _ => {
                k += run;
                if k > band.end {
                    return Err(Fault::BadCode);
                }
                bits.take(size)?;
                *nonzero |= 1 << k;
                k += 1;
            }
        }
    }
    Ok(())
}

/// Figure G.7 of the standard: one more bit of each coefficient that is not zero, between which new
/// ones may begin.
fn refinement(
    bits: &mut Bits<'_>,
    member: &Member,
    band: Band,
    nonzero: &mut u64,
    skipped_blocks: &mut u32,
) -> Result<(), Fault> {
    let ac = table(&member.ac)?;
    let mut k = band.start;
    if *skipped_blocks == 0 {
        while k <= band.end {
            let symbol = bits.symbol(ac)?;
            let (mut run, size) = (usize::from(symbol >> 4), symbol & 15);
            match size {
                0 if run < 15 => {
                    *skipped_blocks = (1 << run) + bits.take(run as u32)?;
                    break;
                }
                0 => {}
                1 => {
                    bits.take(1)?;
                }
                _ => return Err(Fault::BadCode),
            }
            while k <= band.end {
                if *nonzero & (1 << k) != 0 {
                    bits.take(1)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                k += 1;
            }
            if size == 1 {
                if k > band.end {
                    return Err(Fault::BadCode);
                }
                *nonzero |= 1 << k;
            }
            k += 1;
        }
    }
    if *skipped_blocks > 0 {
        for k in k..=band.end {
            if *nonzero & (1 << k) != 0 {
                bits.take(1)?;
            }
        }
        *skipped_blocks -= 1;
    }
    Ok(())
}
