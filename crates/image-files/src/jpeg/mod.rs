//! Whether a JPEG file holds all of its picture.
//!
//! The format has no checksum, and decoders fill what is missing with grey: whoever wants to know
//! has to count. The entropy-coded data of every scan are walked block by block (ITU-T T.81, annexes
//! F and G) without computing a pixel: a file is whole when every block of every scan is there, when
//! its Huffman codes are codes of its tables, when every coefficient that was begun has come to its
//! last bit, and when the end is marked.

mod bits;
mod blocks;

use std::ops::ControlFlow;

use bits::{Bits, Fault, Huffman};
use blocks::{Band, Member, progressive, sequential};

const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;

/// Most scans of a file; each of them costs a pass over all blocks.
const MAX_SCANS: usize = 64;

/// One component of the picture.
struct Component {
    id: u8,
    /// Sampling factors.
    h: usize,
    v: usize,
    /// Blocks in a row and rows of blocks, padded to whole units of an interleaved scan.
    columns: usize,
    /// The same, of a scan of this component alone.
    own_columns: usize,
    own_rows: usize,
    /// Which coefficients of each block are not zero, in a progressive file.
    nonzero: Vec<u64>,
    /// The lowest bit of each coefficient that has come; `None` before the first.
    lowest_bit: [Option<u8>; 64],
}

struct Frame {
    progressive: bool,
    components: Vec<Component>,
    /// Units of an interleaved scan in a row, and rows of them.
    units_across: usize,
    units_down: usize,
}

struct Walker<'a> {
    data: &'a [u8],
    at: usize,
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart_interval: usize,
    frame: Option<Frame>,
    scans: usize,
}

/// Refuses a file that does not hold all of its picture.
///
/// # Errors
/// What is missing or wrong. Files of kinds that no decoder here reads (arithmetic coding, lossless,
/// hierarchical) are left to the decoder, which refuses them.
pub(crate) fn check_whole(data: &[u8]) -> Result<(), String> {
    let mut walker = Walker {
        data,
        at: 2,
        dc: Default::default(),
        ac: Default::default(),
        restart_interval: 0,
        frame: None,
        scans: 0,
    };
    loop {
        if let ControlFlow::Break(()) = walker.segment()? {
            return Ok(());
        }
    }
}

fn cut(what: &str) -> String {
    format!("the JPEG data end {what}")
}

impl<'a> Walker<'a> {
    fn segment(&mut self) -> Result<ControlFlow<()>, String> {
        // Bytes between segments are passed over, as decoders do.
        let rest = self.data.get(self.at..).unwrap_or_default();
        let marked = rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff));
        let Some(marked) = marked else {
            return Err(cut("without the marker of their end"));
        };
        let marker = rest[marked + 1];
        self.at += marked + 2;
        match marker {
            EOI => return self.finish().map(|()| ControlFlow::Break(())),
            // Markers without a segment.
            0x01 | 0xd0..=0xd8 => return Ok(ControlFlow::Continue(())),
            _ => {}
        }
        let rest = &self.data[self.at..];
        let body = match rest {
            [high, low, ..] => rest.get(2..usize::from(u16::from_be_bytes([*high, *low]))),
            _ => None,
        };
        let Some(body) = body else {
            return Err(cut(&format!("within the segment of marker {marker:02x}")));
        };
        self.at += 2 + body.len();
        match marker {
            0xc0..=0xc2 => self.frame(body, marker == 0xc2)?,
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Ok(ControlFlow::Break(()));
            }
            0xc4 => self.tables(body)?,
            0xdd => {
                if let [high, low, ..] = body {
                    self.restart_interval = usize::from(u16::from_be_bytes([*high, *low]));
                }
            }
            SOS => self.scan(body)?,
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    fn frame(&mut self, body: &[u8], progressive: bool) -> Result<(), String> {
        let bad = || "its frame header cannot be read".to_owned();
        let [8, h1, h0, w1, w0, count, specs @ ..] = body else {
            return Err(bad());
        };
        let height = usize::from(u16::from_be_bytes([*h1, *h0]));
        let width = usize::from(u16::from_be_bytes([*w1, *w0]));
        let factors: Vec<(u8, usize, usize)> = specs
            .chunks_exact(3)
            .take(usize::from(*count))
            .map(|spec| {
                (
                    spec[0],
                    usize::from(spec[1] >> 4),
                    usize::from(spec[1] & 15),
                )
            })
            .collect();
        let fits = |factor: usize| (1..=4).contains(&factor);
        let all_fit = factors.iter().all(|&(_, h, v)| fits(h) && fits(v));
        if self.frame.is_some()
            || factors.len() != usize::from(*count)
            || !(1..=4).contains(&factors.len())
            || !all_fit
            || width == 0
            || height == 0
        {
            return Err(bad());
        }
        let h_max = factors.iter().map(|factor| factor.1).max().unwrap_or(1);
        let v_max = factors.iter().map(|factor| factor.2).max().unwrap_or(1);
        let units_across = width.div_ceil(8 * h_max);
        let units_down = height.div_ceil(8 * v_max);
        let components = factors
            .into_iter()
            .map(|(id, h, v)| {
                let columns = units_across * h;
                let blocks = columns * units_down * v;
                Component {
                    id,
                    h,
                    v,
                    columns,
                    own_columns: (width * h).div_ceil(h_max).div_ceil(8),
                    own_rows: (height * v).div_ceil(v_max).div_ceil(8),
                    nonzero: vec![0; if progressive { blocks } else { 0 }],
                    lowest_bit: [None; 64],
                }
            })
            .collect();
        self.frame = Some(Frame {
            progressive,
            components,
            units_across,
            units_down,
        });
        Ok(())
    }

    fn tables(&mut self, mut body: &[u8]) -> Result<(), String> {
        while let [kind, rest @ ..] = body {
            let values = rest
                .get(..16)
                .map(|counts| {
                    counts
                        .iter()
                        .map(|&count| usize::from(count))
                        .sum::<usize>()
                })
                .and_then(|total| rest.get(16..16 + total));
            let (Some(values), index @ 0..=3) = (values, usize::from(kind & 15)) else {
                return Err("a Huffman table cannot be read".to_owned());
            };
            let table = Some(Huffman::new(&rest[..16], values));
            match kind >> 4 {
                0 => self.dc[index] = table,
                _ => self.ac[index] = table,
            }
            body = &rest[16 + values.len()..];
        }
        Ok(())
    }

    fn scan(&mut self, body: &[u8]) -> Result<(), String> {
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(format!("it has more than {MAX_SCANS} scans"));
        }
        let Some(mut frame) = self.frame.take() else {
            return Err("a scan comes before the frame header".to_owned());
        };
        let bad = || "the header of a scan cannot be read".to_owned();
        let [count, rest @ ..] = body else {
            return Err(bad());
        };
        let count = usize::from(*count);
        let (Some(specs), Some(&[start, end, bits])) =
            (rest.get(..2 * count), rest.get(2 * count..2 * count + 3))
        else {
            return Err(bad());
        };
        let band = match frame.progressive {
            true => Band {
                start: usize::from(start),
                end: usize::from(end),
                high: bits >> 4,
                low: bits & 15,
            },
            false => Band {
                start: 0,
                end: 63,
                high: 0,
                low: 0,
            },
        };
        let valid = band.start <= band.end
            && band.end < 64
            && (!frame.progressive || band.start > 0 || band.end == 0)
            && (band.start == 0 || count == 1);
        let members: Option<Vec<Member>> = specs
            .chunks_exact(2)
            .map(|spec| {
                let index = frame.components.iter().position(|c| c.id == spec[0])?;
                Some(Member {
                    index,
                    dc: self.dc.get(usize::from(spec[1] >> 4))?.clone(),
                    ac: self.ac.get(usize::from(spec[1] & 15))?.clone(),
                })
            })
            .collect();
        let Some(members) = members.filter(|members| valid && !members.is_empty()) else {
            return Err(bad());
        };
        for member in &members {
            for lowest in &mut frame.components[member.index].lowest_bit[band.start..=band.end] {
                *lowest = Some(band.low);
            }
        }
        let walked = self.blocks(&mut frame, &members, band);
        self.frame = Some(frame);
        walked
    }

    /// Walks the blocks of a scan.
    fn blocks(&mut self, frame: &mut Frame, members: &[Member], band: Band) -> Result<(), String> {
        let alone = members.len() == 1;
        let (across, down) = match members {
            [member] => {
                let component = &frame.components[member.index];
                (component.own_columns, component.own_rows)
            }
            _ => (frame.units_across, frame.units_down),
        };
        let units = across * down;
        let mut bits = self.interval();
        let mut skipped_blocks = 0_u32;
        for unit in 0..units {
            if self.restart_interval > 0 && unit > 0 && unit % self.restart_interval == 0 {
                self.at = bits.at;
                self.restart(unit, units)?;
                bits = self.interval();
                skipped_blocks = 0;
            }
            let (x, y) = (unit % across, unit / across);
            for member in members {
                let component = &mut frame.components[member.index];
                let (h, v) = if alone {
                    (1, 1)
                } else {
                    (component.h, component.v)
                };
                for block in 0..h * v {
                    let place = (y * v + block / h) * component.columns + x * h + block % h;
                    let result = match frame.progressive {
                        false => sequential(&mut bits, member),
                        true => {
                            let Some(nonzero) = component.nonzero.get_mut(place) else {
                                return Err("a scan is larger than its frame".to_owned());
                            };
                            progressive(&mut bits, member, band, nonzero, &mut skipped_blocks)
                        }
                    };
                    result.map_err(|fault| match fault {
                        Fault::Short => cut(&format!("at block {unit} of {units} of a scan")),
                        Fault::BadCode => format!(
                            "the JPEG data are damaged before block {unit} of {units} of a scan"
                        ),
                    })?;
                }
            }
        }
        self.at = bits.at;
        Ok(())
    }

    fn interval(&self) -> Bits<'a> {
        Bits {
            data: self.data,
            at: self.at,
            held: 0,
            count: 0,
        }
    }

    /// Passes over the restart marker that must stand here.
    fn restart(&mut self, unit: usize, units: usize) -> Result<(), String> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let marked = rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff));
        match marked.map(|at| (at, rest[at + 1])) {
            Some((at, 0xd0..=0xd7)) => {
                self.at += at + 2;
                Ok(())
            }
            _ => Err(cut(&format!("at block {unit} of {units} of a scan"))),
        }
    }

    /// At the end of the file: whether every component has come to its last bit.
    fn finish(&self) -> Result<(), String> {
        let Some(frame) = &self.frame else {
            return Err(cut("before the picture begins"));
        };
        for (index, component) in frame.components.iter().enumerate() {
            let begun = &component.lowest_bit;
            if begun[0].is_none() || begun.iter().flatten().any(|&bit| bit > 0) {
                return Err(format!(
                    "the JPEG data lack scans of component {} of {}",
                    index + 1,
                    frame.components.len()
                ));
            }
        }
        Ok(())
    }
}
