//! Images inside ZIP archives, such as CharXiv's `images.zip` (feature `hub`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use zip::ZipArchive;

use super::error::SourceError;

/// An open archive. Members are read one at a time.
#[derive(Debug)]
pub(super) struct Archive {
    /// Members by their last name; several folders may hold the same one.
    members: HashMap<String, Vec<String>>,
    zip: Mutex<ZipArchive<BufReader<File>>>,
}

impl Archive {
    /// The archives in `folders` and in their `images` folders, in order of their names.
    pub fn open_all(folders: &[PathBuf]) -> Result<Vec<Arc<Self>>, SourceError> {
        let mut files: Vec<PathBuf> = folders
            .iter()
            .flat_map(|folder| [folder.clone(), folder.join("images")])
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| file.extension().is_some_and(|extension| extension == "zip"))
            .collect();
        files.sort();
        files.dedup();
        files
            .iter()
            .map(|file| Self::open(file).map(Arc::new))
            .collect()
    }

    fn open(file: &Path) -> Result<Self, SourceError> {
        let broken = |error: &dyn std::fmt::Display| SourceError::Container {
            file: file.to_owned(),
            reason: error.to_string(),
        };
        let opened = File::open(file).map_err(|error| broken(&error))?;
        let zip = ZipArchive::new(BufReader::new(opened)).map_err(|error| broken(&error))?;
        let mut members: HashMap<String, Vec<String>> = HashMap::new();
        for name in zip.file_names() {
            let name = name.map_err(|error| broken(&error))?.into_owned();
            let last = name.rsplit('/').next().unwrap_or(&name).to_owned();
            members.entry(last).or_default().push(name);
        }
        Ok(Archive {
            members,
            zip: Mutex::new(zip),
        })
    }

    /// The one member whose path ends in `tail`; `None` when there is none or more than one.
    pub fn member_ending_in(&self, tail: &str) -> Option<String> {
        let last = tail.rsplit('/').next()?;
        let mut matching = self.members.get(last)?.iter().filter(|member| {
            member
                .strip_suffix(tail)
                .is_some_and(|front| front.is_empty() || front.ends_with('/'))
        });
        let found = matching.next()?;
        matching.next().is_none().then(|| found.clone())
    }

    /// The bytes of a member.
    pub fn read(&self, member: &str) -> Result<Vec<u8>, String> {
        let mut zip = self.zip.lock().unwrap_or_else(PoisonError::into_inner);
        let file = zip.by_name(member).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        // One more than a picture may have, so that a longer one is told as such.
        file.take(image_files::MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_member_is_found_by_the_end_of_its_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("images")).unwrap();
        let file = File::create(folder.path().join("images/all.zip")).unwrap();
        let mut writer = zip::ZipWriter::new(file);
        for name in ["x/test/1.png", "x/train/1.png", "x/test/2.png"] {
            let options = zip::write::SimpleFileOptions::default();
            writer.start_file(name, options).unwrap();
            writer.write_all(name.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        let archives = Archive::open_all(&[folder.path().to_owned()]).unwrap();
        let archive = &archives[0];
        assert_eq!(archive.member_ending_in("1.png"), None, "there are two");
        assert_eq!(archive.member_ending_in("st/1.png"), None);
        let member = archive.member_ending_in("test/1.png").unwrap();
        assert_eq!(archive.read(&member).unwrap(), b"x/test/1.png");
        assert_eq!(archive.member_ending_in("2.png").unwrap(), "x/test/2.png");
    }
}
