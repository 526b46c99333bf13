// Attention over the runs of a layout, forward and backward, for NVIDIA cards.
//
//   s_ij = scale q_i k_j over the keys j that query i sees;  m' = max(m, max_j s_ij)
//   l' = l e^(m - m') + sum_j e^(s_ij - m');  o' = o e^(m - m') + sum_j e^(s_ij - m') v_j
//   out_i = o / l;  L_i = m + log l
//   p_ij = e^(s_ij - L_i);  D_i = sum_c out_ic grad_ic;  ds_ij = p_ij (grad_i v_j - D_i)
//   dv_j = sum_i p_ij grad_i;  dk_j = scale sum_i ds_ij q_i;  dq_i = scale sum_j ds_ij k_j
//
// Source: FlashAttention-2 (Dao, arXiv 2307.08691). Deviations: a tile walks the runs of keys that it sees
// instead of a mask; the query heads that share a head of keys are rows of one tile, so keys are read once for
// all of them; products, scores and sums are f32 for bf16 too (no tensor cores), as in the blockwise operator
// that these kernels are compared with; gradients of keys are gathered by tiles of keys, so nothing is added by
// two blocks and the same input gives the same bits. Plain CUDA C++ without headers: the tests compile this
// very file for the processor.
//
// Arrays: q, out, grad, dq (queries, heads, DIM); k, v, dk, dv (keys, kv_heads, DIM); log_sums, dots
// (queries, heads) f32. tiles: first query, queries, first run, runs. runs: first key, keys that the tile's first
// query sees, how many more each later query sees (1 in a causal run, else 0). key_tiles: first entry, entries.
// entries: tile, run. A tile's row r is query r / group and head kv_head * group + r % group.

#define THREADS 128
#define ROWS 32                    // rows of a tile of queries
#define KEYS 16                    // keys of a tile of keys
#define PER_ROW (THREADS / ROWS)   // threads that share a row; they are of one warp
#define PER_KEY (THREADS / KEYS)   // threads that share a key; they are of one warp
#define STEP 16                    // rows that the gradient of keys takes at a time

__device__ static inline float load(const float *x) { return *x; }

__device__ static inline void store(float *to, float x) { *to = x; }

// bf16 as its bits: the upper half of an f32.
struct Bf16 {
    unsigned short bits;
};

union Bits {
    float number;
    unsigned int bits;
};

__device__ static inline float load(const Bf16 *x) {
    Bits wide;
    wide.bits = (unsigned int)x->bits << 16;
    return wide.number;
}

// To the nearest, ties to even; a NaN stays one.
__device__ static inline void store(Bf16 *to, float x) {
    Bits wide;
    wide.number = x;
    const unsigned int rounded = wide.bits + 0x7fffu + ((wide.bits >> 16) & 1u);
    to->bits = (unsigned short)((x != x ? wide.bits | 0x00400000u : rounded) >> 16);
}

// Rows from..from + count of a tile, times `scale`; zeros below its last row.
template <typename T, int DIM, int COUNT>
__device__ static inline void load_rows(float (*to)[DIM + 1], const T *x, float scale, int first_query, int from,
                                        int rows, int kv_head, int group, int heads) {
    for (int at = threadIdx.x; at < COUNT * DIM; at += THREADS) {
        const int row = from + at / DIM, column = at % DIM;
        float value = 0.0f;
        if (row < rows) {
            const long long query = first_query + row / group;
            const long long head = kv_head * group + row % group;
            value = scale * load(x + (query * heads + head) * DIM + column);
        }
        to[at / DIM][column] = value;
    }
}

// `count` keys or values from `first` on; zeros after them.
template <typename T, int DIM>
__device__ static inline void load_keys(float (*to)[DIM + 1], const T *x, long long first, int count, int kv_head,
                                        int kv_heads) {
    for (int at = threadIdx.x; at < KEYS * DIM; at += THREADS) {
        const int key = at / DIM, column = at % DIM;
        to[key][column] = key < count ? load(x + ((first + key) * kv_heads + kv_head) * DIM + column) : 0.0f;
    }
}

template <int DIM> __device__ static inline float dot(const float *a, const float *b) {
    float sum = 0.0f;
    for (int column = 0; column < DIM; column++) {
        sum += a[column] * b[column];
    }
    return sum;
}

// Grid: tiles of queries, heads of keys.
template <typename T, int DIM>
__device__ static inline void forward(const T *q, const T *k, const T *v, T *out, float *log_sums, const unsigned int *tiles,
                                      const unsigned int *runs, float scale, int heads, int kv_heads) {
    __shared__ float queries[ROWS][DIM + 1];
    __shared__ float pairs[KEYS][DIM + 1];
    __shared__ float scores[ROWS][KEYS + 1];
    const unsigned int *tile = tiles + 4 * blockIdx.x;
    const int kv_head = blockIdx.y, group = heads / kv_heads;
    const int first_query = tile[0], count = tile[1], rows = count * group;
    const int row = threadIdx.x / PER_ROW, lane = threadIdx.x % PER_ROW;
    float total[DIM / PER_ROW], peak = -INFINITY, sum = 0.0f;
    for (int part = 0; part < DIM / PER_ROW; part++) {
        total[part] = 0.0f;
    }
    load_rows<T, DIM, ROWS>(queries, q, scale, first_query, 0, rows, kv_head, group, heads);
    for (unsigned int index = tile[2]; index < tile[2] + tile[3]; index++) {
        const unsigned int *run = runs + 3 * index;
        const int seen = row < rows ? (int)(run[1] + run[2] * (row / group)) : 0;
        const int most = run[1] + run[2] * (count - 1);
        for (int start = 0; start < most; start += KEYS) {
            const int width = most - start < KEYS ? most - start : KEYS;
            __syncthreads(); // what the step before left has been read
            load_keys<T, DIM>(pairs, k, run[0] + start, width, kv_head, kv_heads);
            __syncthreads();
            for (int key = lane; key < KEYS; key += PER_ROW) {
                scores[row][key] = start + key < seen ? dot<DIM>(queries[row], pairs[key]) : -INFINITY;
            }
            __syncthreads();
            float high = peak;
            for (int key = 0; key < KEYS; key++) {
                high = fmaxf(high, scores[row][key]);
            }
            __syncwarp(); // a row's threads have read it
            const bool some = high > -INFINITY;
            for (int key = lane; key < KEYS; key += PER_ROW) {
                scores[row][key] = some ? expf(scores[row][key] - high) : 0.0f;
            }
            load_keys<T, DIM>(pairs, v, run[0] + start, width, kv_head, kv_heads);
            __syncthreads();
            const float shrink = some ? expf(peak - high) : 1.0f;
            sum *= shrink;
            for (int part = 0; part < DIM / PER_ROW; part++) {
                total[part] *= shrink;
            }
            for (int key = 0; key < KEYS; key++) {
                const float weight = scores[row][key];
                sum += weight;
                for (int part = 0; part < DIM / PER_ROW; part++) {
                    total[part] += weight * pairs[key][lane + PER_ROW * part];
                }
            }
            peak = high;
        }
    }
    if (row < rows) {
        const long long query = first_query + row / group;
        const long long at = query * heads + kv_head * group + row % group;
        for (int part = 0; part < DIM / PER_ROW; part++) {
            store(out + at * DIM + lane + PER_ROW * part, total[part] / sum);
        }
        if (lane == 0) {
            log_sums[at] = peak + logf(sum);
        }
    }
}

// Grid: tiles of queries, heads of keys.
template <typename T, int DIM>
__device__ static inline void grad_of_queries(const T *q, const T *k, const T *v, const T *grad, const float *log_sums,
                                              const float *dots, T *dq, const unsigned int *tiles, const unsigned int *runs,
                                              float scale, int heads, int kv_heads) {
    __shared__ float queries[ROWS][DIM + 1];
    __shared__ float grads[ROWS][DIM + 1];
    __shared__ float pairs[KEYS][DIM + 1];
    __shared__ float slopes[ROWS][KEYS + 1];
    const unsigned int *tile = tiles + 4 * blockIdx.x;
    const int kv_head = blockIdx.y, group = heads / kv_heads;
    const int first_query = tile[0], count = tile[1], rows = count * group;
    const int row = threadIdx.x / PER_ROW, lane = threadIdx.x % PER_ROW;
    const long long query = first_query + row / group;
    const long long at = query * heads + kv_head * group + row % group;
    const float log_sum = row < rows ? log_sums[at] : 0.0f, shared = row < rows ? dots[at] : 0.0f;
    float total[DIM / PER_ROW];
    for (int part = 0; part < DIM / PER_ROW; part++) {
        total[part] = 0.0f;
    }
    load_rows<T, DIM, ROWS>(queries, q, scale, first_query, 0, rows, kv_head, group, heads);
    load_rows<T, DIM, ROWS>(grads, grad, 1.0f, first_query, 0, rows, kv_head, group, heads);
    for (unsigned int index = tile[2]; index < tile[2] + tile[3]; index++) {
        const unsigned int *run = runs + 3 * index;
        const int seen = row < rows ? (int)(run[1] + run[2] * (row / group)) : 0;
        const int most = run[1] + run[2] * (count - 1);
        for (int start = 0; start < most; start += KEYS) {
            const int width = most - start < KEYS ? most - start : KEYS;
            __syncthreads(); // what the step before left has been read
            load_keys<T, DIM>(pairs, v, run[0] + start, width, kv_head, kv_heads);
            __syncthreads();
            for (int key = lane; key < KEYS; key += PER_ROW) {
                slopes[row][key] = dot<DIM>(grads[row], pairs[key]) - shared;
            }
            __syncthreads();
            load_keys<T, DIM>(pairs, k, run[0] + start, width, kv_head, kv_heads);
            __syncthreads();
            for (int key = lane; key < KEYS; key += PER_ROW) {
                const bool sees = start + key < seen;
                const float weight = sees ? expf(dot<DIM>(queries[row], pairs[key]) - log_sum) : 0.0f;
                slopes[row][key] *= weight;
            }
            __syncwarp(); // a row's threads have written it
            for (int key = 0; key < KEYS; key++) {
                const float slope = slopes[row][key];
                for (int part = 0; part < DIM / PER_ROW; part++) {
                    total[part] += slope * pairs[key][lane + PER_ROW * part];
                }
            }
        }
    }
    if (row < rows) {
        for (int part = 0; part < DIM / PER_ROW; part++) {
            store(dq + at * DIM + lane + PER_ROW * part, scale * total[part]);
        }
    }
}

// Grid: tiles of keys, heads of keys.
template <typename T, int DIM>
__device__ static inline void grad_of_keys(const T *q, const T *k, const T *v, const T *grad, const float *log_sums,
                                           const float *dots, T *dk, T *dv, const unsigned int *tiles, const unsigned int *runs,
                                           const unsigned int *key_tiles, const unsigned int *entries, float scale,
                                           int keys_in_all, int heads, int kv_heads) {
    __shared__ float keys[KEYS][DIM + 1];
    __shared__ float values[KEYS][DIM + 1];
    __shared__ float queries[STEP][DIM + 1];
    __shared__ float grads[STEP][DIM + 1];
    __shared__ float weights[STEP][KEYS + 1];
    __shared__ float slopes[STEP][KEYS + 1];
    const int kv_head = blockIdx.y, group = heads / kv_heads;
    const int first_key = KEYS * blockIdx.x;
    const int left = keys_in_all - first_key, width = left < KEYS ? left : KEYS;
    const int own = threadIdx.x / PER_KEY, lane = threadIdx.x % PER_KEY;
    float of_key[DIM / PER_KEY], of_value[DIM / PER_KEY];
    for (int part = 0; part < DIM / PER_KEY; part++) {
        of_key[part] = 0.0f;
        of_value[part] = 0.0f;
    }
    load_keys<T, DIM>(keys, k, first_key, width, kv_head, kv_heads);
    load_keys<T, DIM>(values, v, first_key, width, kv_head, kv_heads);
    const unsigned int *key_tile = key_tiles + 2 * blockIdx.x;
    for (unsigned int index = key_tile[0]; index < key_tile[0] + key_tile[1]; index++) {
        const unsigned int *tile = tiles + 4 * entries[2 * index];
        const unsigned int *run = runs + 3 * entries[2 * index + 1];
        const int first_query = tile[0], rows = tile[1] * group;
        for (int from = 0; from < rows; from += STEP) {
            __syncthreads(); // what the step before left has been read
            load_rows<T, DIM, STEP>(queries, q, scale, first_query, from, rows, kv_head, group, heads);
            load_rows<T, DIM, STEP>(grads, grad, 1.0f, first_query, from, rows, kv_head, group, heads);
            __syncthreads();
            for (int row = lane; row < STEP; row += PER_KEY) {
                const int place = first_key + own - (int)run[0];
                const int query = (from + row) / group;
                float weight = 0.0f, slope = 0.0f;
                if (from + row < rows && own < width && place >= 0 && place < (int)(run[1] + run[2] * query)) {
                    const long long head = kv_head * group + (from + row) % group;
                    const long long at = (long long)(first_query + query) * heads + head;
                    weight = expf(dot<DIM>(queries[row], keys[own]) - log_sums[at]);
                    slope = weight * (dot<DIM>(grads[row], values[own]) - dots[at]);
                }
                weights[row][own] = weight;
                slopes[row][own] = slope;
            }
            __syncwarp(); // a key's threads have written it
            for (int row = 0; row < STEP; row++) {
                const float weight = weights[row][own], slope = slopes[row][own];
                for (int part = 0; part < DIM / PER_KEY; part++) {
                    of_value[part] += weight * grads[row][lane + PER_KEY * part];
                    of_key[part] += slope * queries[row][lane + PER_KEY * part]; // scaled already
                }
            }
        }
    }
    if (own < width) {
        const long long at = ((long long)(first_key + own) * kv_heads + kv_head) * DIM;
        for (int part = 0; part < DIM / PER_KEY; part++) {
            store(dk + at + lane + PER_KEY * part, of_key[part]);
            store(dv + at + lane + PER_KEY * part, of_value[part]);
        }
    }
}

#define KERNELS(NAME, T, DIM)                                                                                          \
    extern "C" __global__ void attention_##NAME(const T *q, const T *k, const T *v, T *out, float *log_sums,           \
                                                const unsigned int *tiles, const unsigned int *runs, float scale,      \
                                                int heads, int kv_heads) {                                             \
        forward<T, DIM>(q, k, v, out, log_sums, tiles, runs, scale, heads, kv_heads);                                  \
    }                                                                                                                  \
    extern "C" __global__ void attention_grad_of_queries_##NAME(                                                       \
        const T *q, const T *k, const T *v, const T *grad, const float *log_sums, const float *dots, T *dq,            \
        const unsigned int *tiles, const unsigned int *runs, float scale, int heads, int kv_heads) {                   \
        grad_of_queries<T, DIM>(q, k, v, grad, log_sums, dots, dq, tiles, runs, scale, heads, kv_heads);               \
    }                                                                                                                  \
    extern "C" __global__ void attention_grad_of_keys_##NAME(                                                          \
        const T *q, const T *k, const T *v, const T *grad, const float *log_sums, const float *dots, T *dk, T *dv,     \
        const unsigned int *tiles, const unsigned int *runs, const unsigned int *key_tiles,                            \
        const unsigned int *entries, float scale, int keys_in_all, int heads, int kv_heads) {                          \
        grad_of_keys<T, DIM>(q, k, v, grad, log_sums, dots, dk, dv, tiles, runs, key_tiles, entries, scale,            \
                             keys_in_all, heads, kv_heads);                                                            \
    }

// The heads of Qwen2.5-VL: 80 in the vision tower, 128 in the decoder of 3B and 7B.
KERNELS(f32_80, float, 80)
KERNELS(f32_128, float, 128)
KERNELS(bf16_80, Bf16, 80)
KERNELS(bf16_128, Bf16, 128)
