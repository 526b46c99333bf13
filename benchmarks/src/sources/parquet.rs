//! Rows of a parquet file as JSON, binary fields kept aside (feature `hub`).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, List, Row as ParquetRow};
use serde_json::{Map, Value, json};

use super::error::{Place, RecordName, SourceError};
use super::row::Row;

/// All rows of `file`.
pub(super) fn read(file: &Path) -> Result<Vec<Row>, SourceError> {
    let broken = |reason: &dyn std::fmt::Display| SourceError::Container {
        file: file.to_owned(),
        reason: reason.to_string(),
    };
    let opened = File::open(file).map_err(|source| SourceError::Io {
        file: file.to_owned(),
        source,
    })?;
    let reader = SerializedFileReader::new(opened).map_err(|error| broken(&error))?;
    let shared: Arc<Path> = file.into();
    let mut rows = Vec::new();
    for (index, row) in reader
        .get_row_iter(None)
        .map_err(|error| broken(&error))?
        .enumerate()
    {
        let mut blobs = Vec::new();
        let fields = object(row.map_err(|error| broken(&error))?, &mut blobs);
        rows.push(Row {
            place: Place {
                file: Arc::clone(&shared),
                record: RecordName::Row(index + 1),
            },
            fields,
            blobs,
        });
    }
    Ok(rows)
}

fn object(row: ParquetRow, blobs: &mut Vec<Arc<[u8]>>) -> Map<String, Value> {
    row.into_columns()
        .into_iter()
        .map(|(name, field)| (name, value(field, blobs)))
        .collect()
}

fn list(list: &List, blobs: &mut Vec<Arc<[u8]>>) -> Value {
    list.elements()
        .iter()
        .map(|element| value(element.clone(), blobs))
        .collect()
}

/// Kinds that no data set here has (dates, decimals, maps) become their text, which no field
/// reader takes for something else.
fn value(field: Field, blobs: &mut Vec<Arc<[u8]>>) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        Field::Str(value) => value.into(),
        Field::Bytes(bytes) => {
            blobs.push(bytes.data().into());
            json!({ "blob": blobs.len() - 1 })
        }
        Field::Group(row) => Value::Object(object(row, blobs)),
        Field::ListInternal(elements) => list(&elements, blobs),
        other => Value::String(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use ::parquet::column::writer::ColumnWriter;
    use ::parquet::data_type::ByteArray;
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    use super::*;

    /// A file with a string column and an image column as the hub writes it.
    #[test]
    fn strings_structs_and_bytes_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/vwtq-00000-of-00001.parquet");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut png = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(4, 2)
            .write_to(&mut png, image::ImageFormat::Png)
            .unwrap();
        let png = png.into_inner();
        let schema = parse_message_type(
            "message schema {
                required binary qa_id (UTF8);
                required binary question (UTF8);
                required binary gt (UTF8);
                required group image { required binary bytes; }
            }",
        )
        .unwrap();
        let file = File::create(&path).unwrap();
        let properties = Arc::new(WriterProperties::new());
        let mut writer = SerializedFileWriter::new(file, Arc::new(schema), properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for cell in [b"nu-1".to_vec(), b"which?".to_vec(), b"a|b".to_vec(), png] {
            let mut column = group.next_column().unwrap().unwrap();
            let ColumnWriter::ByteArrayColumnWriter(typed) = column.untyped() else {
                panic!("a binary column");
            };
            typed
                .write_batch(&[ByteArray::from(cell)], None, None)
                .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();

        let set = super::super::load(folder.path(), crate::TestSet::Vwtq).unwrap();
        let question = set.question(0).unwrap().unwrap();
        assert_eq!(
            (question.id.as_str(), question.gold.as_str()),
            ("nu-1", "a|b")
        );
        assert_eq!(question.task.image.dimensions(), (4, 2));
    }
}
