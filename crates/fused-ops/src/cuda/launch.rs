//! The kernels of `attention.cu` on candle's tensors.

use candle_core::cuda_backend::cudarc::driver::{
    CudaView, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, D, DType, Device, Result, Shape, Storage, StorageRef, Tensor};
use half::bf16;

use super::schedule::{ROWS, Schedule};
use crate::attention::check;
use crate::error;
use crate::layout::AttentionLayout;
use crate::recomputed::Recomputed;

const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/attention.ptx"));
/// What candle keeps the loaded kernels under.
const MODULE: &str = "fused_ops_attention";
/// Threads of a block: `THREADS` of the kernels.
const THREADS: u32 = 128;
/// Widths of a head that there are kernels for.
const DIMS: [usize; 2] = [80, 128];

/// [`crate::attention`] on a card by kernels of our own: one of them forward and two backward, where
/// candle's operators take a dozen for each tile. `None` for what they do not take: other devices, types
/// other than f32 and bf16, heads of other widths than 80 and 128, more than 32 query heads a head of
/// keys, no queries.
///
/// Products, scores and sums are f32 for both types, and the same input gives the same bits.
///
/// # Errors
/// As [`crate::attention`]; tensors of several devices or types; a driver that refuses the kernels.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &AttentionLayout,
    scale: f64,
) -> error::Result<Option<Tensor>> {
    check(q, k, v, layout)?;
    Ok(by_kernels(q, k, v, layout, scale)?)
}

fn by_kernels(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &AttentionLayout,
    scale: f64,
) -> Result<Option<Tensor>> {
    let (queries, heads, dim) = q.dims3()?;
    let (keys, kv_heads, _) = k.dims3()?;
    let element = match q.dtype() {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        _ => return Ok(None),
    };
    let Device::Cuda(device) = q.device() else {
        return Ok(None);
    };
    for other in [k, v] {
        if !other.device().same_device(q.device()) || other.dtype() != q.dtype() {
            candle_core::bail!(
                "attention: queries, keys and values are of several devices or types"
            );
        }
    }
    let group = heads / kv_heads;
    if !DIMS.contains(&dim) || group > ROWS || queries == 0 {
        return Ok(None);
    }
    let schedule = Schedule::new(layout, group);
    let problem = Problem {
        device: device.clone(),
        kernels: format!("{element}_{dim}"),
        dtype: q.dtype(),
        tiles: numbers(schedule.tiles.as_flattened(), q.device())?,
        runs: numbers(schedule.runs.as_flattened(), q.device())?,
        schedule,
        scale: scale as f32,
        queries,
        keys,
        heads,
        kv_heads,
        dim,
    };
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (out, log_sums) = problem.forward(&q.detach(), &k.detach(), &v.detach())?;
    if !(q.track_op() || k.track_op() || v.track_op()) {
        return Ok(Some(out));
    }
    let operator = Recomputed::new(
        "attention",
        &out,
        move |[q, k, v], out, grad, [wants_q, wants_k, wants_v]| {
            problem.backward([q, k, v], out, &log_sums, grad, [wants_q, wants_k, wants_v])
        },
    );
    drop(out);
    Ok(Some(q.apply_op3(&k, &v, operator)?))
}

struct Problem {
    device: CudaDevice,
    /// The end of the kernels' names.
    kernels: String,
    dtype: DType,
    schedule: Schedule,
    /// Of the schedule, on the card.
    tiles: Tensor,
    runs: Tensor,
    scale: f32,
    queries: usize,
    keys: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Problem {
    /// The result (queries, heads, dim) and log Σ exp of the scores (queries, heads), f32.
    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        match self.dtype {
            DType::BF16 => self.forward_of::<bf16>(q, k, v),
            _ => self.forward_of::<f32>(q, k, v),
        }
    }

    fn forward_of<T: Element>(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let rows = self.queries * self.heads;
        // SAFETY: the kernel writes every element of both: each query is in one tile, with all its heads.
        let (mut out, mut log_sums) = unsafe {
            (
                self.device.alloc::<T>(rows * self.dim)?,
                self.device.alloc::<f32>(rows)?,
            )
        };
        let held = [q, k, v].map(Held::of);
        let [q, k, v] = &held;
        let (q, k, v) = (q.view::<T>()?, k.view::<T>()?, v.view::<T>()?);
        let lists = [&self.tiles, &self.runs].map(Held::of);
        let (tiles, runs) = (lists[0].view::<u32>()?, lists[1].view::<u32>()?);
        let (heads, kv_heads) = (self.heads as i32, self.kv_heads as i32);
        let function =
            self.device
                .get_or_load_custom_func(&self.kernel("attention"), MODULE, PTX)?;
        let mut call = function.builder();
        call.arg(&q)
            .arg(&k)
            .arg(&v)
            .arg(&mut out)
            .arg(&mut log_sums);
        call.arg(&tiles).arg(&runs);
        call.arg(&self.scale).arg(&heads).arg(&kv_heads);
        // SAFETY: the arguments are those of `attention_*` in order and type; the schedule's tiles and
        // runs lie within the tensors, whose shapes the operator has checked.
        unsafe { call.launch(self.grid(self.schedule.tiles.len())) }.w()?;
        Ok((
            self.tensor(out, (self.queries, self.heads, self.dim)),
            self.tensor(log_sums, (self.queries, self.heads)),
        ))
    }

    fn backward(
        &self,
        arguments: [&Tensor; 3],
        out: &Tensor,
        log_sums: &Tensor,
        grad: &Tensor,
        wanted: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let grad = grad.contiguous()?;
        let dots = (grad.to_dtype(DType::F32)? * out.to_dtype(DType::F32)?)?;
        let dots = dots.sum(D::Minus1)?;
        match self.dtype {
            DType::BF16 => self.backward_of::<bf16>(arguments, log_sums, &grad, &dots, wanted),
            _ => self.backward_of::<f32>(arguments, log_sums, &grad, &dots, wanted),
        }
    }

    fn backward_of<T: Element>(
        &self,
        arguments: [&Tensor; 3],
        log_sums: &Tensor,
        grad: &Tensor,
        dots: &Tensor,
        [wants_q, wants_k, wants_v]: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let held = arguments.map(Held::of);
        let [q, k, v] = &held;
        let (q, k, v) = (q.view::<T>()?, k.view::<T>()?, v.view::<T>()?);
        let given = [grad, log_sums, dots].map(Held::of);
        let grad = given[0].view::<T>()?;
        let (log_sums, dots) = (given[1].view::<f32>()?, given[2].view::<f32>()?);
        let lists = [&self.tiles, &self.runs].map(Held::of);
        let (tiles, runs) = (lists[0].view::<u32>()?, lists[1].view::<u32>()?);
        let (heads, kv_heads) = (self.heads as i32, self.kv_heads as i32);
        let mut of_queries = None;
        if wants_q {
            // SAFETY: the kernel writes every element: each query is in one tile, with all its heads.
            let mut dq = unsafe {
                self.device
                    .alloc::<T>(self.queries * self.heads * self.dim)?
            };
            let function = self.device.get_or_load_custom_func(
                &self.kernel("attention_grad_of_queries"),
                MODULE,
                PTX,
            )?;
            let mut call = function.builder();
            call.arg(&q)
                .arg(&k)
                .arg(&v)
                .arg(&grad)
                .arg(&log_sums)
                .arg(&dots);
            call.arg(&mut dq).arg(&tiles).arg(&runs);
            call.arg(&self.scale).arg(&heads).arg(&kv_heads);
            // SAFETY: the arguments are those of `attention_grad_of_queries_*` in order and type, of
            // the shapes of the forward pass.
            unsafe { call.launch(self.grid(self.schedule.tiles.len())) }.w()?;
            of_queries = Some(self.tensor(dq, (self.queries, self.heads, self.dim)));
        }
        if !(wants_k || wants_v) {
            return Ok([of_queries, None, None]);
        }
        let schedule = self.schedule.by_keys(self.keys);
        let device = Device::Cuda(self.device.clone());
        let lists = [
            numbers(schedule.key_tiles.as_flattened(), &device)?,
            numbers(schedule.entries.as_flattened(), &device)?,
        ];
        let lists = lists.each_ref().map(Held::of);
        let (key_tiles, entries) = (lists[0].view::<u32>()?, lists[1].view::<u32>()?);
        let keys = self.keys as i32;
        let count = self.keys * self.kv_heads * self.dim;
        // SAFETY: the kernel writes every element of both: each key is in one tile of keys.
        let (mut dk, mut dv) = unsafe {
            (
                self.device.alloc::<T>(count)?,
                self.device.alloc::<T>(count)?,
            )
        };
        let function = self.device.get_or_load_custom_func(
            &self.kernel("attention_grad_of_keys"),
            MODULE,
            PTX,
        )?;
        let mut call = function.builder();
        call.arg(&q)
            .arg(&k)
            .arg(&v)
            .arg(&grad)
            .arg(&log_sums)
            .arg(&dots);
        call.arg(&mut dk).arg(&mut dv).arg(&tiles).arg(&runs);
        call.arg(&key_tiles).arg(&entries);
        call.arg(&self.scale).arg(&keys).arg(&heads).arg(&kv_heads);
        // SAFETY: the arguments are those of `attention_grad_of_keys_*` in order and type, of the shapes
        // of the forward pass; entries name tiles and runs of the schedule.
        unsafe { call.launch(self.grid(schedule.key_tiles.len())) }.w()?;
        let shape = (self.keys, self.kv_heads, self.dim);
        Ok([
            of_queries,
            wants_k.then(|| self.tensor(dk, shape)),
            wants_v.then(|| self.tensor(dv, shape)),
        ])
    }

    /// A kernel's name for this type and width.
    fn kernel(&self, name: &str) -> String {
        format!("{name}_{}", self.kernels)
    }

    fn grid(&self, tiles: usize) -> LaunchConfig {
        LaunchConfig {
            grid_dim: (tiles as u32, self.kv_heads as u32, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        }
    }

    fn tensor<T: Element>(&self, values: Slice<T>, shape: impl Into<Shape>) -> Tensor {
        let storage = CudaStorage::wrap_cuda_slice(values, self.device.clone());
        Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
    }
}

type Slice<T> = candle_core::cuda_backend::cudarc::driver::CudaSlice<T>;

/// What a kernel's array can hold.
trait Element: CudaDType + DeviceRepr {}

impl<T: CudaDType + DeviceRepr> Element for T {}

/// A contiguous tensor on a card, locked for reading.
struct Held<'a> {
    storage: StorageRef<'a>,
    from: usize,
    count: usize,
}

impl<'a> Held<'a> {
    fn of(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Held {
            storage,
            from: layout.start_offset(),
            count: layout.shape().elem_count(),
        }
    }

    fn view<T: Element>(&self) -> Result<CudaView<'_, T>> {
        match &*self.storage {
            Storage::Cuda(storage) => Ok(storage
                .as_cuda_slice::<T>()?
                .slice(self.from..self.from + self.count)),
            _ => candle_core::bail!("attention: one of its tensors is not on the card"),
        }
    }
}

/// Numbers of a schedule on the card; one where there are none, since a kernel's array cannot be empty.
fn numbers(values: &[u32], device: &Device) -> Result<Tensor> {
    match values {
        [] => Tensor::zeros(1, DType::U32, device),
        _ => Tensor::from_slice(values, values.len(), device),
    }
}
