//! The bits of entropy-coded data, and the Huffman codes in them (annexes C and F of T.81).

/// A canonical Huffman table (annex C).
#[derive(Clone, Default)]
pub(super) struct Huffman {
    /// By length of code less 1: the first code beyond this length, aligned to 16 bits, and where
    /// the values of this length begin, less the first code.
    beyond: [u32; 16],
    offset: [i32; 16],
    values: Vec<u8>,
}

impl Huffman {
    pub(super) fn new(counts: &[u8], values: &[u8]) -> Self {
        let mut table = Huffman {
            values: values.to_vec(),
            ..Huffman::default()
        };
        let (mut code, mut index) = (0_i32, 0_i32);
        for (length, &count) in counts.iter().enumerate() {
            table.offset[length] = index - code;
            code += i32::from(count);
            index += i32::from(count);
            table.beyond[length] = (code as u32) << (15 - length);
            code <<= 1;
        }
        table
    }
}

/// The bits of one restart interval of a scan.
pub(super) struct Bits<'a> {
    pub(super) data: &'a [u8],
    pub(super) at: usize,
    pub(super) held: u32,
    pub(super) count: u32,
}

/// The data of a scan ended before its blocks did.
pub(super) struct Short;

pub(super) enum Fault {
    Short,
    BadCode,
}

impl From<Short> for Fault {
    fn from(Short: Short) -> Self {
        Fault::Short
    }
}

impl Bits<'_> {
    /// Holds at least `wanted` bits (at most 16), as far as there are so many.
    fn fill(&mut self, wanted: u32) -> bool {
        while self.count < wanted {
            let byte = match self.data.get(self.at) {
                Some(0xff) if self.data.get(self.at + 1) == Some(&0) => {
                    self.at += 2;
                    0xff
                }
                // A marker, or the end of the file.
                Some(0xff) | None => return false,
                Some(&byte) => {
                    self.at += 1;
                    byte
                }
            };
            self.held = (self.held << 8) | u32::from(byte);
            self.count += 8;
        }
        true
    }

    pub(super) fn take(&mut self, wanted: u32) -> Result<u32, Short> {
        if !self.fill(wanted) {
            return Err(Short);
        }
        self.count -= wanted;
        Ok((self.held >> self.count) & ((1 << wanted) - 1))
    }

    pub(super) fn symbol(&mut self, table: &Huffman) -> Result<u8, Fault> {
        // Behind the last bit, ones stand for what is missing: no code consists of ones alone.
        let peeked = match self.fill(16) {
            true => self.held >> (self.count - 16),
            false => (self.held << (16 - self.count)) | ((1 << (16 - self.count)) - 1),
        } & 0xffff;
        let Some(shorter) = (0..16).find(|&length| peeked < table.beyond[length]) else {
            return Err(match self.count < 16 {
                true => Fault::Short,
                false => Fault::BadCode,
            });
        };
        let length = shorter as u32 + 1;
        if length > self.count {
            return Err(Fault::Short);
        }
        self.count -= length;
        let index = (peeked >> (16 - length)) as i32 + table.offset[shorter];
        let value = usize::try_from(index)
            .ok()
            .and_then(|index| table.values.get(index));
        value.copied().ok_or(Fault::BadCode)
    }
}
