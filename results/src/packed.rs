//! Finished files are kept compressed; one that has to grow again is unpacked first.

use std::io::Write;
use std::path::Path;

use flate2::{Compression, GzBuilder};

use crate::delta::{delta, encode};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::stored::{compressed, read_reference, read_stored};

/// Compresses a finished file: `<path>.gz` is there, whole, before `path` goes. Nothing where there
/// is no `path`. The same bytes give the same file.
pub fn pack(path: &Path) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    write_atomically(&compressed(path), &gzip(&bytes))?;
    std::fs::remove_file(path).map_err(Error::io("remove", path))
}

/// Packs records or metrics as what differs from `references`, other runs' files of the same name, which
/// stay where they are; there may be none. Where lines cannot be told so, they are packed as any other
/// file is.
///
/// # Errors
/// A file that cannot be read or written.
pub fn pack_lines(path: &Path, references: &[&Path]) -> Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    let others: Vec<(&Path, Vec<u8>)> = references
        .iter()
        .map(|&reference| Ok((reference, read_reference(reference)?)))
        .collect::<Result<_>>()?;
    let Some(lines) = encode(path, &text, &others) else {
        return pack(path);
    };
    write_atomically(&delta(path), &gzip(lines.as_bytes()))?;
    std::fs::remove_file(path).map_err(Error::io("remove", path))
}

/// Makes `path` plain again, to be added to. Where both forms are there, a kill came between the two
/// steps of [`pack`]: the plain one is whole and stays.
pub fn unpack(path: &Path) -> Result<()> {
    let packed = compressed(path);
    if !packed.is_file() {
        return Ok(());
    }
    if !path.is_file() {
        write_atomically(path, &read_stored(path)?)?;
    }
    std::fs::remove_file(&packed).map_err(Error::io("remove", &packed))
}

/// Bytes as gzip, without name and time.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("writing to memory does not fail")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::fixture;
    use crate::stored::is_stored;

    #[test]
    fn a_packed_file_comes_back_and_a_kill_between_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        pack(&path).unwrap();
        unpack(&path).unwrap();
        assert!(!path.exists() && !compressed(&path).exists());
        std::fs::write(&path, "{}\n").unwrap();
        pack(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(read_stored(&path).unwrap(), b"{}\n");
        unpack(&path).unwrap();
        assert!(!compressed(&path).exists());
        assert_eq!(std::fs::read(&path).unwrap(), b"{}\n");
        // Killed after the compressed form was written.
        std::fs::write(compressed(&path), gzip(b"{}\n")).unwrap();
        unpack(&path).unwrap();
        assert!(path.exists() && !compressed(&path).exists());
    }

    /// The records of the fixture's first trained runs, each in a folder of its own.
    fn runs<const N: usize>(folder: &Path) -> [PathBuf; N] {
        let trained: Vec<_> = fixture::runs(20).into_iter().skip(2).take(N).collect();
        assert_eq!(trained.len(), N);
        std::array::from_fn(|index| {
            let path = folder.join(format!("arm/seed-{index}/records.jsonl"));
            crate::write_lines(&path, &trained[index].records).unwrap();
            path
        })
    }

    #[test]
    fn a_delta_gives_the_bytes_that_were_packed() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = runs(folder.path());
        let text = std::fs::read(&second).unwrap();
        pack(&first).unwrap();
        pack_lines(&second, &[&first]).unwrap();
        assert!(!second.exists() && is_stored(&second) && delta(&second).is_file());
        assert_eq!(read_stored(&second).unwrap(), text);
        let whole = gzip(&text).len() as u64;
        let size = std::fs::metadata(delta(&second)).unwrap().len();
        assert!(4 * size < 3 * whole, "{size} of {whole} bytes");
        // Moved together they are found again; alone they are not.
        let moved = folder.path().join("elsewhere");
        std::fs::rename(folder.path().join("arm"), &moved).unwrap();
        let second = moved.join("seed-1/records.jsonl");
        assert_eq!(read_stored(&second).unwrap(), text);
        std::fs::remove_dir_all(moved.join("seed-0")).unwrap();
        assert!(read_stored(&second).is_err());
    }

    #[test]
    fn a_delta_is_told_by_others_and_no_deeper_than_it_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let paths: [PathBuf; 4] = runs(folder.path());
        let texts: Vec<_> = paths
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect();
        pack_lines(&paths[1], &[&paths[0]]).unwrap();
        pack_lines(&paths[2], &[&paths[1], &paths[0]]).unwrap();
        let deep = pack_lines(&paths[3], &[&paths[2]]).unwrap_err().to_string();
        assert!(deep.contains("2 deltas"), "{deep}");
        for (path, text) in paths.iter().zip(&texts) {
            assert_eq!(&read_stored(path).unwrap(), text);
        }
        assert!(paths[3].is_file() && !paths[2].exists());
        // One that leads to itself ends.
        std::fs::remove_file(&paths[0]).unwrap();
        std::fs::rename(delta(&paths[1]), delta(&paths[0])).unwrap();
        assert!(read_stored(&paths[0]).is_err());
    }

    #[test]
    fn a_delta_that_was_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = runs(folder.path());
        pack_lines(&second, &[&first]).unwrap();
        let packed = delta(&second);
        let lines = String::from_utf8(crate::stored::gunzip(&packed).unwrap()).unwrap();
        let count = lines.lines().count();
        for kept in 0..count {
            let cut: String = lines
                .lines()
                .take(kept)
                .map(|line| format!("{line}\n"))
                .collect();
            std::fs::write(&packed, gzip(cut.as_bytes())).unwrap();
            assert!(read_stored(&second).is_err(), "{kept} of {count} lines");
        }
        std::fs::write(&packed, gzip(format!("{lines}true\n").as_bytes())).unwrap();
        assert!(read_stored(&second).is_err());
    }

    #[test]
    fn another_reference_is_noticed_and_what_cannot_be_told_by_it_is_kept_whole() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = runs(folder.path());
        let text = std::fs::read_to_string(&second).unwrap();
        pack_lines(&second, &[&first]).unwrap();
        let changed = std::fs::read_to_string(&first)
            .unwrap()
            .replacen("wrong", "right", 1);
        std::fs::write(&first, changed).unwrap();
        let error = read_stored(&second).unwrap_err().to_string();
        assert!(error.contains("BLAKE3"), "{error}");
        // Fields in another order than a record's, or none.
        std::fs::remove_file(delta(&second)).unwrap();
        let reordered = text.replace(
            "{\"set\":\"charxiv\",\"qa_id\":\"q0\"",
            "{\"qa_id\":\"q0\",\"set\":\"charxiv\"",
        );
        assert_ne!(reordered, text);
        for other in [reordered, String::new()] {
            std::fs::write(&second, &other).unwrap();
            pack_lines(&second, &[&first]).unwrap();
            assert!(compressed(&second).is_file() && !delta(&second).exists());
            assert_eq!(read_stored(&second).unwrap(), other.as_bytes());
            std::fs::remove_file(compressed(&second)).unwrap();
        }
    }

    #[test]
    fn more_or_fewer_lines_than_another_run_has_and_no_other_run() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second, _] = runs(folder.path());
        let text = std::fs::read_to_string(&second).unwrap();
        let (line, shorter) = text.split_once('\n').unwrap();
        let longer = format!("{text}{line}\n");
        let nested = "{\"a\":{\"b\":1,\"c\":{}},\"d\":null}\n{\"d\":[{\"a\":2}]}\n";
        let begun = "{\"a\":1,\"d\":{\"y\":1}}\n{\"a\":1,\"b\":{\"z\":0},\"d\":{\"x\":2,\"y\":1}}\n\
                     {\"a\":1,\"c\":1,\"d\":{\"y\":1}}\n";
        for own in [shorter, &longer, nested, begun] {
            for references in [&[first.as_path()][..], &[]] {
                std::fs::write(&second, own).unwrap();
                pack_lines(&second, references).unwrap();
                assert!(delta(&second).is_file(), "{own}");
                assert_eq!(read_stored(&second).unwrap(), own.as_bytes());
                std::fs::remove_file(delta(&second)).unwrap();
            }
        }
    }

    #[test]
    fn a_delta_that_claims_too_much_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let deep = "a/".repeat(100_000);
        for (order, lines, rest) in [
            ("a", "1000000000000000", "!\n1\n"),
            ("a", "1000000000000000", "\n"),
            (deep.as_str(), "1", "!\n1\n"),
            ("a/b\",\"a", "1", "!\n!\n1\n2\n"),
            ("a", "1", "0\n"),
        ] {
            let text = format!(
                "{{\"references\":[],\"same\":{{}},\"order\":[\"{order}\"],\"lines\":{lines}}}\n{rest}"
            );
            std::fs::write(delta(&path), gzip(text.as_bytes())).unwrap();
            assert!(read_stored(&path).is_err(), "{rest}");
        }
    }

    /// The form of earlier versions: no number of lines, objects within a line whole.
    #[test]
    fn an_earlier_delta_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = [0, 1].map(|index| folder.path().join(format!("{index}.jsonl")));
        let text = "{\"arm\":\"x\",\"a\":{\"b\":1}}\n{\"arm\":\"x\",\"a\":{\"b\":2}}\n";
        std::fs::write(&first, text).unwrap();
        let header = format!(
            "{{\"references\":[{{\"path\":\"0.jsonl\",\"blake3\":\"{}\"}}],\"same\":{{\"arm\":\"y\"}},\"order\":[\"arm\",\"a\"]}}",
            blake3::hash(text.as_bytes())
        );
        let told = format!("{header}\n0!\n{{\"b\":3}}\n");
        std::fs::write(delta(&second), gzip(told.as_bytes())).unwrap();
        let expected = text.replace('x', "y").replace('2', "3");
        assert_eq!(read_stored(&second).unwrap(), expected.as_bytes());
    }
}
