//! The matrix product of two tensors.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Shape, Tensor};

use crate::error::{Result, shape_error};
use crate::kernels::gemm::{Matrix, Start, gemm};
use crate::kernels::memory::{Buffer, Pointer, parallel};
use crate::values::{Values, fusible, slice, tensor};

const OPERATOR: &str = "matmul";

/// `a b` of (.., m, k) and (.., k, n) with the same leading dimensions: (.., m, n).
///
/// In contrast to candle's product, every element is one chain of multiply-adds in the order of
/// `k` (cut in blocks of 512), the same bits on every machine; and the backward pass computes only
/// the gradients that are needed.
///
/// # Errors
/// When shapes do not fit.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let &[ref leading @ .., _, inner] = a.dims() else {
        return Err(shape_error(OPERATOR, "a", "(.., m, k)", a));
    };
    match b.dims() {
        [b_leading @ .., rows, _] if b_leading == leading && *rows == inner => {}
        _ => {
            let expected = format!("{leading:?} and ({inner}, n)");
            return Err(shape_error(OPERATOR, "b", expected, b));
        }
    }
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    match fusible(&[&a, &b])? {
        true => Ok(a.apply_op2(&b, Fused)?),
        false => Ok(a.matmul(&b)?),
    }
}

/// (batch, m, n, k)
type Sizes = (usize, usize, usize, usize);

fn sizes(a: &Shape, b: &Shape) -> candle_core::Result<Sizes> {
    let (a, b) = (a.dims(), b.dims());
    let (&[ref leading @ .., m, k], &[.., n]) = (a, b) else {
        candle_core::bail!("{OPERATOR}: {a:?} and {b:?} are no matrices");
    };
    Ok((leading.iter().product(), m, n, k))
}

/// For each matrix of a batch, (m, n) = (m, k) · (k, n).
fn products<'a>(
    (batch, m, n, k): Sizes,
    left: impl Fn(usize) -> Matrix<'a> + Sync + Send,
    right: impl Fn(usize) -> Matrix<'a> + Sync + Send,
) -> Vec<f32> {
    let mut out = Buffer::new(batch * m * n);
    let to = out.pointer();
    parallel(batch, |index| {
        // SAFETY: `out` has room for a product of each matrix of the batch, which the product of
        // that matrix alone writes, all of it.
        unsafe {
            let to = Pointer::of(to.at(index * m * n));
            gemm((m, n, k), left(index), right(index), Start::Zero, to);
        }
    });
    // SAFETY: every product was written.
    unsafe { out.filled() }
}

/// One matrix of (batch, rows, columns).
fn one(values: &[f32], index: usize, rows: usize, columns: usize) -> Matrix<'_> {
    let size = rows * columns;
    Matrix::rows(&values[index * size..(index + 1) * size], columns)
}

/// How the values of a factor are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// As the product takes them.
    Plain,
    /// Transposed.
    Turned,
}

/// `a b` without a graph, of contiguous (.., m, k) and (.., k, n), each stored as it is or transposed:
/// no factor is copied.
pub(crate) fn product(
    a: &Tensor,
    a_side: Side,
    b: &Tensor,
    b_side: Side,
) -> candle_core::Result<Tensor> {
    let (a, b) = (a.detach(), b.detach());
    let oriented = |x: &Tensor, side| match side {
        Side::Plain => Ok(x.clone()),
        Side::Turned => x.transpose(D::Minus2, D::Minus1),
    };
    let (left, right) = (oriented(&a, a_side)?, oriented(&b, b_side)?);
    if !(fusible(&[&a, &b])? && a.is_contiguous() && b.is_contiguous()) {
        return left.matmul(&right);
    }
    let (batch, m, n, k) = sizes(left.shape(), right.shape())?;
    let (a_values, b_values) = (Values::of(&a), Values::of(&b));
    let (a_slice, b_slice) = (a_values.slice()?, b_values.slice()?);
    let values = products(
        (batch, m, n, k),
        |index| match a_side {
            Side::Plain => one(a_slice, index, m, k),
            Side::Turned => one(a_slice, index, k, m).transposed(),
        },
        |index| match b_side {
            Side::Plain => one(b_slice, index, k, n),
            Side::Turned => one(b_slice, index, n, k).transposed(),
        },
    );
    let mut shape = left.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    Tensor::from_vec(values, shape, a.device())
}

struct Fused;

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        OPERATOR
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, m, n, k) = sizes(a_layout.shape(), b_layout.shape())?;
        let (a, b) = (slice(a, a_layout)?, slice(b, b_layout)?);
        let values = products(
            (batch, m, n, k),
            |index| one(a, index, m, k),
            |index| one(b, index, k, n),
        );
        let mut shape = a_layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = n;
        }
        Ok((CpuStorage::F32(values), Shape::from(shape)))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (batch, m, n, k) = sizes(a.shape(), b.shape())?;
        let grad = grad.contiguous()?;
        let grad = Values::of(&grad);
        let grad = grad.slice()?;
        let mut a_grad = None;
        if a.track_op() {
            let b = Values::of(b);
            let b = b.slice()?;
            let values = products(
                (batch, m, k, n),
                |index| one(grad, index, m, n),
                |index| one(b, index, k, n).transposed(),
            );
            a_grad = Some(tensor(values, a)?);
        }
        let mut b_grad = None;
        if b.track_op() {
            let a = Values::of(a);
            let a = a.slice()?;
            let values = products(
                (batch, k, n, m),
                |index| one(a, index, m, k).transposed(),
                |index| one(grad, index, m, n),
            );
            b_grad = Some(tensor(values, b)?);
        }
        Ok((a_grad, b_grad))
    }
}
