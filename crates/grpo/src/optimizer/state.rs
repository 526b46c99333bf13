//! The optimiser's state, and its file.
//!
//! A safetensors file with torch's names: `<parameter>.exp_avg`, `<parameter>.exp_avg_sq`,
//! `<parameter>.step` (I64 scalar), and `<parameter>.master` for half-precision parameters. Bytes
//! depend on the state alone, and loading restores it to the bit.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, View};

use super::{AdamW, OptimizerPlace, needs_master};
use crate::error::{Error, Result};

/// What AdamW remembers of one parameter.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Updates so far.
    pub step: u64,
    /// The parameter's shape.
    shape: Vec<usize>,
    pub moments: Moments,
}

#[derive(Clone, Debug)]
pub(super) enum Moments {
    /// For f32 parameters on the CPU, and for those of a device whose state is on the host.
    Host {
        first: Vec<f32>,
        second: Vec<f32>,
        copy: Option<HostCopy>,
    },
    /// For all others: f32, or f64 for f64 parameters, on the parameter's device.
    Device {
        first: Tensor,
        second: Tensor,
        master: Option<Tensor>,
    },
}

/// A parameter's f32 copy in the host's memory, which is updated in its place.
#[derive(Clone, Debug)]
pub(super) struct HostCopy {
    pub values: Var,
    /// Whether it knows more than the parameter, so that a file must hold it.
    is_master: bool,
}

impl HostCopy {
    fn of(parameter: &Var) -> Result<Self> {
        let values = parameter.as_tensor().detach().to_device(&Device::Cpu)?;
        // Of its own, where neither step made one.
        let values = values.to_dtype(DType::F32)?.copy()?;
        Ok(HostCopy {
            values: Var::from_tensor(&values)?,
            is_master: needs_master(parameter.dtype()),
        })
    }
}

impl State {
    pub fn new(parameter: &Var, place: OptimizerPlace) -> Result<Self> {
        let moments = if on_host(parameter, place) {
            let copied = !is_host_parameter(parameter);
            Moments::Host {
                first: vec![0.0; parameter.elem_count()],
                second: vec![0.0; parameter.elem_count()],
                copy: copied.then(|| HostCopy::of(parameter)).transpose()?,
            }
        } else {
            let dtype = moment_dtype(parameter);
            let zeros = || Tensor::zeros(parameter.dims(), dtype, parameter.device());
            let master = if needs_master(parameter.dtype()) {
                Some(parameter.as_tensor().detach().to_dtype(dtype)?)
            } else {
                None
            };
            Moments::Device {
                first: zeros()?,
                second: zeros()?,
                master,
            }
        };
        Ok(State {
            step: 0,
            shape: parameter.dims().to_vec(),
            moments,
        })
    }

    /// An error if the parameter is not the one that this state was made for.
    pub fn check(&self, name: &str, parameter: &Var, place: OptimizerPlace) -> Result<()> {
        if self.shape != parameter.dims() {
            return Err(Error::Shape {
                what: "the optimiser's state",
                name: name.to_owned(),
                expected: parameter.dims().to_vec(),
                found: self.shape.clone(),
            });
        }
        if matches!(self.moments, Moments::Host { .. }) != on_host(parameter, place) {
            return Err(Error::Setting {
                what: "parameters",
                why: format!("`{name}` changed its device or dtype since the last update"),
            });
        }
        Ok(())
    }
}

/// Whether the fused pass updates the parameter itself.
fn is_host_parameter(parameter: &Var) -> bool {
    parameter.device().is_cpu() && parameter.dtype() == DType::F32
}

/// Whether the fused pass updates the parameter, or a copy of it.
fn on_host(parameter: &Var, place: OptimizerPlace) -> bool {
    is_host_parameter(parameter)
        || (place == OptimizerPlace::Host && parameter.dtype() != DType::F64)
}

fn moment_dtype(parameter: &Var) -> DType {
    match parameter.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// One tensor of the file; its bytes are made when they are written, so that saving takes no second
/// copy of the state.
struct Entry<'a> {
    shape: &'a [usize],
    values: Values<'a>,
}

enum Values<'a> {
    Step(u64),
    Single(Cow<'a, [f32]>),
    Double(Vec<f64>),
}

impl<'a> Entry<'a> {
    fn device(tensor: &'a Tensor) -> Result<Self> {
        let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
        let values = match tensor.dtype() {
            DType::F64 => Values::Double(flat.to_vec1()?),
            _ => Values::Single(Cow::Owned(flat.to_vec1()?)),
        };
        let shape = tensor.dims();
        Ok(Entry { shape, values })
    }
}

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::Step(_) => Dtype::I64,
            Values::Single(_) => Dtype::F32,
            Values::Double(_) => Dtype::F64,
        }
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match &self.values {
            Values::Step(step) => step.to_le_bytes().to_vec(),
            Values::Single(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Double(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        match &self.values {
            Values::Step(_) => 8,
            Values::Single(values) => 4 * values.len(),
            Values::Double(values) => 8 * values.len(),
        }
    }
}

impl AdamW {
    /// Number of updates that a parameter has had; 0 when it has none.
    pub fn updates(&self, name: &str) -> u64 {
        self.states.get(name).map_or(0, |state| state.step)
    }

    /// Writes the state to a safetensors file, atomically: a kill leaves the old file or the new.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut entries = BTreeMap::new();
        for (name, state) in &self.states {
            let mut put = |part: &str, entry| entries.insert(format!("{name}.{part}"), entry);
            let (shape, values) = (&[][..], Values::Step(state.step));
            put("step", Entry { shape, values });
            match &state.moments {
                Moments::Host {
                    first,
                    second,
                    copy,
                } => {
                    for (part, moment) in [("exp_avg", first), ("exp_avg_sq", second)] {
                        let values = Values::Single(Cow::Borrowed(moment));
                        let shape = state.shape.as_slice();
                        put(part, Entry { shape, values });
                    }
                    if let Some(master) = copy.as_ref().filter(|copy| copy.is_master) {
                        put("master", Entry::device(master.values.as_tensor())?);
                    }
                }
                Moments::Device {
                    first,
                    second,
                    master,
                } => {
                    put("exp_avg", Entry::device(first)?);
                    put("exp_avg_sq", Entry::device(second)?);
                    if let Some(master) = master {
                        put("master", Entry::device(master)?);
                    }
                }
            }
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".partial");
        let temporary = Path::new(&temporary);
        safetensors::serialize_to_file(entries, None, temporary).map_err(|e| Error::State {
            path: temporary.to_owned(),
            why: e.to_string(),
        })?;
        std::fs::File::open(temporary)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(temporary, path))
            .map_err(|source| Error::File {
                path: path.to_owned(),
                source,
            })
    }

    /// An optimiser with these settings and the state of a file that [`AdamW::save`] wrote, at whichever
    /// place it was kept, for these parameters as they are now.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or holds state of other parameters or shapes.
    pub fn load(&self, path: &Path, parameters: &[(String, Var)]) -> Result<Self> {
        let mut optimizer = AdamW::new(self.options)?.placed(self.place);
        let bytes = std::fs::read(path).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        let refuse = |why: String| Error::State {
            path: path.to_owned(),
            why,
        };
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| refuse(format!("not a readable safetensors file ({e})")))?;
        let mut used = 0;
        for (name, parameter) in parameters {
            let Ok(step) = file.tensor(&format!("{name}.step")) else {
                continue; // It had not received a gradient yet.
            };
            let step: [u8; 8] = match (step.dtype(), step.data().try_into()) {
                (Dtype::I64, Ok(bytes)) => bytes,
                _ => return Err(refuse(format!("`{name}.step` is not one I64 number"))),
            };
            let step = u64::try_from(i64::from_le_bytes(step))
                .map_err(|_| refuse(format!("`{name}.step` is negative")))?;
            let mut state = State::new(parameter, self.place)?;
            state.step = step;
            let part = |part: &str, dtype: DType| -> Result<Vec<u8>> {
                let key = format!("{name}.{part}");
                let view = file
                    .tensor(&key)
                    .map_err(|_| refuse(format!("`{key}` is missing")))?;
                let expected = if dtype == DType::F64 {
                    Dtype::F64
                } else {
                    Dtype::F32
                };
                if view.shape() != parameter.dims() || view.dtype() != expected {
                    return Err(refuse(format!(
                        "`{key}` should be {expected:?} {:?}, found {:?} {:?}",
                        parameter.dims(),
                        view.dtype(),
                        view.shape()
                    )));
                }
                Ok(view.data().to_vec())
            };
            used += 3;
            match &mut state.moments {
                Moments::Host {
                    first,
                    second,
                    copy,
                } => {
                    *first = floats(&part("exp_avg", DType::F32)?);
                    *second = floats(&part("exp_avg_sq", DType::F32)?);
                    if let Some(master) = copy.as_ref().filter(|copy| copy.is_master) {
                        let values = floats(&part("master", DType::F32)?);
                        let shape = parameter.dims();
                        master
                            .values
                            .set(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
                        used += 1;
                    }
                }
                Moments::Device {
                    first,
                    second,
                    master,
                } => {
                    let dtype = first.dtype();
                    let tensor = |bytes: Vec<u8>| -> Result<Tensor> {
                        let shape = parameter.dims();
                        let tensor = Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu)?;
                        Ok(tensor.to_device(parameter.device())?)
                    };
                    *first = tensor(part("exp_avg", dtype)?)?;
                    *second = tensor(part("exp_avg_sq", dtype)?)?;
                    if let Some(master) = master {
                        *master = tensor(part("master", dtype)?)?;
                        used += 1;
                    }
                }
            }
            optimizer.states.insert(name.clone(), state);
        }
        if used != file.len() {
            return Err(refuse(format!(
                "{} of its {} tensors belong to none of the {} parameters: is it another run's?",
                file.len() - used,
                file.len(),
                parameters.len()
            )));
        }
        Ok(optimizer)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect()
}
