//! The checksums of a PNG file's chunks.

/// The signature of every PNG file.
const SIGNATURE: usize = 8;

/// Refuses a file with a chunk that is not what its checksum says, as Pillow does. A file that ends
/// early is left to the decoder, which knows whether all pixels are there.
///
/// # Errors
/// The chunk.
pub(crate) fn check_chunks(data: &[u8]) -> Result<(), String> {
    let mut rest = data.get(SIGNATURE..).unwrap_or_default();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        // The name belongs to what is checked.
        let parts = behind
            .split_at_checked(length.saturating_add(4))
            .and_then(|(body, behind)| Some((body, behind.split_first_chunk::<4>()?)));
        let Some((body, (checksum, behind))) = parts else {
            return Ok(());
        };
        let name = &body[..4];
        if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
            return Err(format!(
                "the PNG chunk {} is damaged: its checksum differs",
                name.escape_ascii()
            ));
        }
        if name == b"IEND" {
            return Ok(());
        }
        rest = behind;
    }
    Ok(())
}
