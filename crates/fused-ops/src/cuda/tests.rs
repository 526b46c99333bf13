//! The kernels' very source, compiled for the processor (`on_processor.cpp`), beside the blockwise
//! operator. Where there is no C++ compiler, a line says so.

use std::io::Write;
use std::process::{Command, Stdio};

use candle_core::{DType, Device, Result, Tensor, Var};
use half::bf16;
use seeded_random::{Draw, Stream};

use super::schedule::{KEYS, ROWS, Schedule};
use crate::composed;
use crate::layout::{AttentionLayout, QueryBlock, Segment};

/// Decoding: each query is one sample's, which sees a prompt, what it said before, and itself.
fn decoding() -> AttentionLayout {
    let block = |query: usize, prompt, own| QueryBlock {
        queries: query..query + 1,
        visible: vec![prompt, own],
        causal: None,
    };
    let blocks = vec![
        block(0, 0..33, 50..57),
        block(1, 0..33, 61..62),
        block(2, 33..50, 70..90),
    ];
    AttentionLayout::new(blocks, 3, 95).unwrap()
}

fn layouts() -> Vec<(&'static str, AttentionLayout)> {
    let segment = |length, parent| Segment { length, parent };
    let tree = [
        segment(35, None),
        segment(5, Some(0)),
        segment(17, Some(0)),
        segment(12, Some(2)),
        segment(9, None),
        segment(1, Some(4)),
    ];
    let tree = AttentionLayout::tree(&tree).unwrap();
    let some = tree.select(&[0, 34, 35, 36, 39, 60, 78]).unwrap();
    vec![
        ("causal", AttentionLayout::causal(&[37, 1, 20])),
        ("windows", AttentionLayout::bidirectional(&[64, 64, 30])),
        ("tree", tree),
        ("some of a tree", some),
        ("decoding", decoding()),
    ]
}

#[test]
fn a_schedule_has_every_pair_once_from_both_sides() {
    for (name, layout) in layouts() {
        for group in [1, 2, 7, 8, 32] {
            let schedule = Schedule::new(&layout, group);
            let (queries, keys) = (layout.queries(), layout.keys());
            let mask = layout.dense_mask(&Device::Cpu, DType::F32).unwrap();
            let mask = mask.to_vec2::<f32>().unwrap();
            let mut seen = vec![vec![0; keys]; queries];
            let sees = |run: u32, query: u32, key: usize| {
                let [first, some, more] = schedule.runs[run as usize];
                (first as usize..(first + some + more * query) as usize).contains(&key)
            };
            for &[first, count, from, runs] in &schedule.tiles {
                assert!(count as usize * group <= ROWS.max(group));
                for query in 0..count {
                    for run in from..from + runs {
                        let row = &mut seen[(first + query) as usize];
                        for (key, times) in row.iter_mut().enumerate() {
                            *times += usize::from(sees(run, query, key));
                        }
                    }
                }
            }
            let mut from_keys = vec![vec![0; keys]; queries];
            let by_keys = schedule.by_keys(keys);
            for (index, &[from, count]) in by_keys.key_tiles.iter().enumerate() {
                for &[tile, run] in &by_keys.entries[from as usize..(from + count) as usize] {
                    let [first, count, ..] = schedule.tiles[tile as usize];
                    for query in 0..count {
                        let row = &mut from_keys[(first + query) as usize];
                        let own = row.iter_mut().enumerate().skip(index * KEYS).take(KEYS);
                        for (key, times) in own {
                            *times += usize::from(sees(run, query, key));
                        }
                    }
                }
            }
            for (row, (seen, from_keys)) in mask.iter().zip(seen.iter().zip(&from_keys)) {
                for (key, &hidden) in row.iter().enumerate() {
                    let once = usize::from(hidden == 0.0);
                    assert_eq!(seen[key], once, "{name}, group {group}, key {key}");
                    assert_eq!(from_keys[key], once, "{name}, group {group}, key {key}");
                }
            }
        }
    }
}

/// `on_processor`, compiled into a folder that is removed with the value.
struct Program {
    folder: tempfile::TempDir,
}

const KERNELS: &str = include_str!("attention.cu");

impl Program {
    /// With `kernels` as `attention.cu`; `None`, with a line, where there is no compiler.
    fn compiled(kernels: &str) -> Option<Self> {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
        if Command::new(&compiler).arg("--version").output().is_err() {
            println!("skipped: no C++ compiler ({compiler}); CXX names another");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("on_processor.cpp");
        std::fs::write(&source, include_str!("on_processor.cpp")).unwrap();
        std::fs::write(folder.path().join("attention.cu"), kernels).unwrap();
        let compiled = Command::new(&compiler)
            .args(["-std=c++17", "-O1", "-o"])
            .arg(folder.path().join("on_processor"))
            .arg(source)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{said}");
        Some(Program { folder })
    }

    /// Values and gradients, with the threads of a block in an order; `None` where the program stops.
    fn run(&self, order: &str, problem: &[u8]) -> Option<Vec<u8>> {
        let mut child = Command::new(self.folder.path().join("on_processor"))
            .arg(order)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(problem).unwrap();
        let output = child.wait_with_output().unwrap();
        output.status.success().then_some(output.stdout)
    }
}

fn bytes_of(x: &Tensor) -> Vec<u8> {
    let x = x.flatten_all().unwrap();
    match x.dtype() {
        DType::BF16 => {
            let values = x.to_vec1::<bf16>().unwrap();
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        _ => {
            let values = x.to_vec1::<f32>().unwrap();
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
    }
}

/// The next values of some bytes, as f32.
fn take(bytes: &mut &[u8], count: usize, dtype: DType) -> Vec<f32> {
    let width = dtype.size_in_bytes();
    let (own, rest) = bytes.split_at(count * width);
    *bytes = rest;
    let number = |x: &[u8]| match dtype {
        DType::BF16 => bf16::from_le_bytes([x[0], x[1]]).to_f32(),
        _ => f32::from_le_bytes([x[0], x[1], x[2], x[3]]),
    };
    own.chunks_exact(width).map(number).collect()
}

fn drawn(shape: (usize, usize, usize), stream: u64, dtype: DType) -> Result<Var> {
    let mut generator = Stream::new(stream).generator();
    let count = shape.0 * shape.1 * shape.2;
    let values: Vec<f32> = (0..count).map(|_| generator.normal() as f32).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

/// Largest difference as a share of the largest value.
fn difference(found: &[f32], expected: &Tensor) -> Result<f32> {
    let expected = expected
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|x| x.is_finite()));
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    Ok(apart.fold(0f32, f32::max) / largest)
}

/// What `on_processor` reads, of q, k, v and the result's gradient.
fn problem(layout: &AttentionLayout, tensors: [&Tensor; 4], scale: f64) -> Vec<u8> {
    let [q, k, ..] = tensors;
    let (queries, heads, dim) = q.dims3().unwrap();
    let (keys, kv_heads, _) = k.dims3().unwrap();
    let schedule = Schedule::new(layout, heads / kv_heads);
    let by_keys = schedule.by_keys(keys);
    let bf16 = usize::from(q.dtype() == DType::BF16);
    let counts = [
        schedule.tiles.len(),
        schedule.runs.len(),
        by_keys.entries.len(),
    ];
    let sizes = [&[bf16, dim, queries, keys, heads, kv_heads][..], &counts].concat();
    let numbers = sizes
        .into_iter()
        .map(|size| size as u32)
        .flat_map(u32::to_le_bytes);
    let mut problem: Vec<u8> = numbers.collect();
    problem.extend((scale as f32).to_le_bytes());
    for x in tensors {
        problem.extend(bytes_of(x));
    }
    let lists = [
        schedule.tiles.as_flattened(),
        schedule.runs.as_flattened(),
        by_keys.key_tiles.as_flattened(),
        by_keys.entries.as_flattened(),
    ];
    for list in lists {
        problem.extend(list.iter().flat_map(|x| x.to_le_bytes()));
    }
    problem
}

fn same_as_blockwise(
    program: &Program,
    layout: &AttentionLayout,
    (heads, kv_heads, dim): (usize, usize, usize),
    dtype: DType,
) -> Result<[f32; 4]> {
    let (queries, keys) = (layout.queries(), layout.keys());
    let q = drawn((queries, heads, dim), 1, dtype)?;
    let k = drawn((keys, kv_heads, dim), 2, dtype)?;
    let v = drawn((keys, kv_heads, dim), 3, dtype)?;
    let grad = drawn((queries, heads, dim), 4, dtype)?;
    let scale = 1.0 / (dim as f64).sqrt();
    let out = composed::attention(&q, &k, &v, layout, scale)?;
    let gradients = (&out * grad.as_tensor())?.sum_all()?.backward()?;

    let problem = problem(layout, [&q, &k, &v, &grad], scale);
    let results = program.run("up", &problem).expect("it ends well");
    // What depends on the order of threads between two barriers lacks one.
    assert!(
        program.run("down", &problem).as_ref() == Some(&results),
        "a race"
    );
    let mut rest = results.as_slice();
    let found = take(&mut rest, queries * heads * dim, dtype);
    take(&mut rest, queries * heads, DType::F32);
    let of_q = take(&mut rest, queries * heads * dim, dtype);
    let of_k = take(&mut rest, keys * kv_heads * dim, dtype);
    let of_v = take(&mut rest, keys * kv_heads * dim, dtype);
    assert!(rest.is_empty());
    let expected = |x: &Var| gradients.get(x).expect("it is a variable").clone();
    Ok([
        difference(&found, &out)?,
        difference(&of_q, &expected(&q))?,
        difference(&of_k, &expected(&k))?,
        difference(&of_v, &expected(&v))?,
    ])
}

#[test]
fn the_kernels_equal_the_blockwise_operator() -> Result<()> {
    let Some(program) = Program::compiled(KERNELS) else {
        return Ok(());
    };
    for (name, layout) in layouts() {
        for heads in [(2, 2, 80), (4, 2, 128), (7, 1, 80), (16, 2, 128)] {
            // f32: sums of another order; bf16: the last of its 8 bits, which the result is rounded to.
            for (dtype, most) in [(DType::F32, 3e-6), (DType::BF16, 8e-3)] {
                let apart = same_as_blockwise(&program, &layout, heads, dtype)?;
                assert!(
                    apart.iter().all(|&apart| apart < most),
                    "{name}, {heads:?}, {dtype:?}: {apart:?}"
                );
            }
        }
    }
    Ok(())
}

/// The test above sees a missing barrier: without any one of them the kernels give something else.
#[test]
fn no_barrier_can_be_left_out() -> Result<()> {
    let Some(program) = Program::compiled(KERNELS) else {
        return Ok(());
    };
    let layout = AttentionLayout::causal(&[37, 1, 20]);
    let draw = |heads, stream| drawn((layout.queries(), heads, 128), stream, DType::F32);
    let (q, k, v, grad) = (draw(4, 1)?, draw(2, 2)?, draw(2, 3)?, draw(4, 4)?);
    let problem = problem(&layout, [&q, &k, &v, &grad], 0.1);
    let expected = program.run("up", &problem);
    let lines: Vec<&str> = KERNELS.lines().collect();
    let barriers = ["__syncthreads();", "__syncwarp();"];
    let mut left_out = 0;
    for (place, line) in lines.iter().enumerate() {
        let Some(barrier) = barriers.iter().find(|barrier| line.contains(**barrier)) else {
            continue;
        };
        let without = line.replace(barrier, "");
        let changed = [&lines[..place], &[without.as_str()], &lines[place + 1..]].concat();
        let Some(changed) = Program::compiled(&changed.join("\n")) else {
            continue;
        };
        let same = ["up", "down"].map(|order| changed.run(order, &problem) == expected);
        assert_ne!(same, [true, true], "line {}: {line}", place + 1);
        left_out += 1;
    }
    assert_eq!(left_out, 13);
    Ok(())
}
