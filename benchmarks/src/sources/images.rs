//! Where a question's image is: a file, bytes in a parquet row, or a member of an archive.

use std::io::Cursor;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use image_files::ImageFileError;
use serde_json::Value;

use super::error::{Place, SourceError};
use super::row::Row;

/// An image that has been found and not yet decoded.
#[derive(Clone, Debug)]
pub(super) enum ImageRef {
    File(PathBuf),
    Bytes(Arc<[u8]>),
    #[cfg(feature = "hub")]
    Archived {
        archive: Arc<super::archive::Archive>,
        member: String,
    },
}

impl ImageRef {
    /// The file, or the place in a row or an archive.
    pub fn name(&self) -> String {
        match self {
            ImageRef::File(file) => file.display().to_string(),
            ImageRef::Bytes(_) => "inside the row".to_owned(),
            #[cfg(feature = "hub")]
            ImageRef::Archived { member, .. } => member.clone(),
        }
    }

    fn error(&self, place: &Place, error: &ImageFileError) -> SourceError {
        // The picture's name stands in the error already.
        let reason = match error {
            ImageFileError::File { problem, .. } => problem.to_string(),
            ImageFileError::Read { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        SourceError::Image {
            place: place.clone(),
            image: self.name(),
            reason,
        }
    }

    /// Width and height in pixels of the upright picture, read from the header.
    pub fn size(&self, place: &Place) -> Result<(u32, u32), SourceError> {
        match self {
            ImageRef::File(file) => image_files::dimensions(file),
            ImageRef::Bytes(bytes) => image_files::dimensions_of(Cursor::new(bytes)),
            #[cfg(feature = "hub")]
            ImageRef::Archived { archive, member } => archive
                .read(member)
                .map_err(ImageFileError::Broken)
                .and_then(|bytes| image_files::dimensions_of(Cursor::new(bytes))),
        }
        .map_err(|error| self.error(place, &error))
    }

    /// The pixels, as the reference loader gives them.
    pub fn decode(&self, place: &Place) -> Result<RgbImage, SourceError> {
        match self {
            ImageRef::File(file) => image_files::read(file),
            ImageRef::Bytes(bytes) => image_files::decode(bytes),
            #[cfg(feature = "hub")]
            ImageRef::Archived { archive, member } => archive
                .read(member)
                .map_err(ImageFileError::Broken)
                .and_then(|bytes| image_files::decode(&bytes)),
        }
        .map_err(|error| self.error(place, &error))
    }
}

/// Most folders of a path that are looked at, from its end.
const DEEPEST: usize = 16;

/// Looks for the images that a file's rows name.
#[derive(Debug)]
pub(super) struct Finder {
    folders: Vec<PathBuf>,
    #[cfg(feature = "hub")]
    archives: Vec<Arc<super::archive::Archive>>,
}

impl Finder {
    /// Images of the rows of `file`, a file somewhere under `root`.
    pub fn new(root: &Path, file: &Path) -> Result<Self, SourceError> {
        let mut folders: Vec<PathBuf> = Vec::new();
        let beside = file.parent().unwrap_or(root);
        for folder in [beside, beside.parent().unwrap_or(root), root] {
            if folder.starts_with(root) && !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
        }
        Ok(Finder {
            #[cfg(feature = "hub")]
            archives: super::archive::Archive::open_all(&folders)?,
            folders,
        })
    }

    /// The image of a row: its own bytes, or the first of the paths it names under which a file
    /// stands; `None` when there is none.
    pub fn find(&self, row: &Row, extra: &[String]) -> Option<ImageRef> {
        let mut paths: Vec<&str> = Vec::new();
        for field in [
            "image_file",
            "figure_path",
            "image",
            "images",
            "conversations",
        ] {
            let mut value = row.fields.get(field).unwrap_or(&Value::Null);
            if field == "conversations" {
                value = &value[0]["images"];
            }
            if let Value::Array(items) = value {
                value = items.first().unwrap_or(&Value::Null);
            }
            let blob = value.get("bytes").unwrap_or(value).get("blob");
            if let Some(bytes) = blob
                .and_then(Value::as_u64)
                .and_then(|index| row.blobs.get(usize::try_from(index).ok()?))
            {
                return Some(ImageRef::Bytes(Arc::clone(bytes)));
            }
            paths.extend(value.as_str().or_else(|| value.get("path")?.as_str()));
        }
        paths.extend(extra.iter().map(String::as_str));
        paths.into_iter().find_map(|path| self.look_up(path))
    }

    fn look_up(&self, named: &str) -> Option<ImageRef> {
        // The old files write `ChartQAtest/png`, the images lie in `ChartQA/test/png`.
        let named = named
            .replace("ChartQAtest", "ChartQA/test")
            .replace("ChartQAval", "ChartQA/val");
        // A path in a data file names something below the data folder and nothing else.
        let parts: Vec<String> = Path::new(&named)
            .components()
            .filter_map(|component| match component {
                Component::Normal(part) => Some(part.to_str()?.to_owned()),
                _ => None,
            })
            .collect();
        // Every tail is looked for, so a path of thousands of folders would take its time.
        let parts = &parts[parts.len().saturating_sub(DEEPEST)..];
        // The folders above it differ from one copy of the data to the next: the longest tail
        // that exists is the image.
        for first in 0..parts.len() {
            let tail: PathBuf = parts[first..].iter().collect();
            for folder in &self.folders {
                for below in ["", "images", "png"] {
                    let file = folder.join(below).join(&tail);
                    if file.is_file() {
                        return Some(ImageRef::File(file));
                    }
                }
            }
            #[cfg(feature = "hub")]
            for archive in &self.archives {
                if let Some(member) = archive.member_ending_in(&parts[first..].join("/")) {
                    return Some(ImageRef::Archived {
                        archive: Arc::clone(archive),
                        member,
                    });
                }
            }
        }
        None
    }
}
