//! Rows of a table written in place, as a step of decoding does with its keys and values.

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use crate::error::{Result, shape_error, value_error};
use crate::values::{fusible, slice};

const OPERATOR: &str = "write_rows";

/// Writes the rows of `new` (n, width) over those of `table` (rows, width) that `at` names, in the
/// table's own storage. A row is named once at most: which of two were kept is not said. Takes no part
/// in a backward pass.
///
/// # Errors
/// When shapes do not fit, `table` is not contiguous or `at` names a row that it has not.
pub fn write_rows(table: &Tensor, at: &[u32], new: &Tensor) -> Result<()> {
    let &[rows, width] = table.dims() else {
        return Err(shape_error(OPERATOR, "table", "(rows, width)", table));
    };
    if new.dims() != [at.len(), width] {
        let expected = format!("({}, {width})", at.len());
        return Err(shape_error(OPERATOR, "new", expected, new));
    }
    if let Some(row) = at.iter().find(|&&row| row as usize >= rows) {
        let reason = format!("row {row} is not among the table's {rows}");
        return Err(value_error(OPERATOR, reason));
    }
    if at.is_empty() {
        return Ok(());
    }
    let new = new.contiguous()?;
    if fusible(&[table, &new])? {
        return Ok(table.inplace_op2(&new, &WriteRows { at })?);
    }
    let index = Tensor::new(at, table.device())?.unsqueeze(1)?;
    let index = index.expand((at.len(), width))?.contiguous()?;
    Ok(table.scatter_set(&index, &new, 0)?)
}

struct WriteRows<'a> {
    at: &'a [u32],
}

impl InplaceOp2 for WriteRows<'_> {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(
        &self,
        table: &mut CpuStorage,
        layout: &Layout,
        new: &CpuStorage,
        new_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (_, width) = layout.shape().dims2()?;
        let (CpuStorage::F32(table), Some((start, end))) = (table, layout.contiguous_offsets())
        else {
            candle_core::bail!("{OPERATOR}: the table has to be contiguous and of f32");
        };
        let table = &mut table[start..end];
        for (&row, new) in self.at.iter().zip(slice(new, new_layout)?.chunks(width)) {
            table[row as usize * width..][..width].copy_from_slice(new);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn rows_are_written_where_they_belong_and_nowhere_else() {
        for dtype in [DType::F32, DType::F64] {
            let whole = Tensor::zeros((6, 3), dtype, &Device::Cpu).unwrap();
            // A view: what lies before it in the storage is not touched.
            let table = whole.narrow(0, 1, 5).unwrap();
            let new = Tensor::arange(1f32, 7.0, &Device::Cpu).unwrap();
            let new = new.reshape((2, 3)).unwrap().to_dtype(dtype).unwrap();
            write_rows(&table, &[4, 0], &new).unwrap();
            let found = whole.to_dtype(DType::F32).unwrap().to_vec2::<f32>();
            let mut wanted = vec![vec![0f32; 3]; 6];
            wanted[5] = vec![1.0, 2.0, 3.0];
            wanted[1] = vec![4.0, 5.0, 6.0];
            assert_eq!(found.unwrap(), wanted);
            write_rows(&table, &[], &new.narrow(0, 0, 0).unwrap()).unwrap();
            let error = write_rows(&table, &[4, 5], &new).unwrap_err().to_string();
            assert!(
                error.contains("row 5 is not among the table's 5"),
                "{error}"
            );
            let error = write_rows(&table, &[1], &new).unwrap_err().to_string();
            assert!(error.contains("new must have shape (1, 3)"), "{error}");
        }
    }
}
