//! Operators whose forward pass is composed of candle's own and whose backward pass is written out.
//!
//! candle would keep every intermediate result of the composition for its backward pass. Here the
//! forward pass runs without a graph, its result enters the graph as the result of one operator, and
//! the backward pass computes anew what it needs from the operator's arguments. Works on every
//! device.

use std::sync::Mutex;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, MetalStorage, Result, Shape,
    Storage, Tensor,
};

/// Arguments, result and the result's gradient, all without a graph, and which arguments need a
/// gradient; gives the gradients.
type Backward<const N: usize> = Box<
    dyn Fn([&Tensor; N], &Tensor, &Tensor, [bool; N]) -> Result<[Option<Tensor>; N]> + Send + Sync,
>;

/// An operator of `N` arguments whose result is known already.
pub(crate) struct Recomputed<const N: usize> {
    name: &'static str,
    /// Until the graph has it.
    out: Mutex<Option<Tensor>>,
    backward: Backward<N>,
}

impl<const N: usize> Recomputed<N> {
    /// `out` is fresh and contiguous, the result of the forward pass.
    pub(crate) fn new(
        name: &'static str,
        out: &Tensor,
        backward: impl Fn([&Tensor; N], &Tensor, &Tensor, [bool; N]) -> Result<[Option<Tensor>; N]>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Recomputed {
            name,
            out: Mutex::new(Some(out.detach())),
            backward: Box::new(backward),
        }
    }

    /// The result's values, handed out once.
    fn take(&self) -> Result<(Storage, Shape)> {
        let mut slot = match self.out.lock() {
            Ok(slot) => slot,
            Err(poisoned) => poisoned.into_inner(),
        };
        let Some(out) = slot.take() else {
            candle_core::bail!("{}: the forward pass ran twice", self.name);
        };
        let (storage, layout) = out.storage_and_layout();
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn on_cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => candle_core::bail!("{}: the result is not on the arguments' device", self.name),
        }
    }

    fn on_cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => candle_core::bail!("{}: the result is not on the arguments' device", self.name),
        }
    }

    fn on_metal(&self) -> Result<(MetalStorage, Shape)> {
        match self.take()? {
            (Storage::Metal(storage), shape) => Ok((storage, shape)),
            _ => candle_core::bail!("{}: the result is not on the arguments' device", self.name),
        }
    }

    fn gradients(
        &self,
        arguments: [&Tensor; N],
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; N]> {
        let wanted = arguments.map(Tensor::track_op);
        let detached = arguments.map(Tensor::detach);
        let arguments = detached.each_ref();
        (self.backward)(arguments, &out.detach(), &grad.detach(), wanted)
    }
}

impl CustomOp1 for Recomputed<1> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.on_metal()
    }

    fn bwd(&self, a: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [a] = self.gradients([a], out, grad)?;
        Ok(a)
    }
}

impl CustomOp2 for Recomputed<2> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.on_metal()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok(self.gradients([a, b], out, grad)?.into())
    }
}

impl CustomOp3 for Recomputed<3> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.on_metal()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok(self.gradients([a, b, c], out, grad)?.into())
    }
}
