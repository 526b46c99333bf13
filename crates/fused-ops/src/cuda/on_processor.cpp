// Runs the kernels of attention.cu on the processor, for their tests: a thread of a block is a context of its own,
// and a barrier hands over to the next. Between barriers the threads run one after the other, upwards or
// downwards as the argument says: what depends on the order has no barrier where it needs one. A warp's barrier
// holds up that warp alone.
//
//     on_processor up|down < problem > results
//
// problem: u32 type (0 f32, 1 bf16), dim, queries, keys, heads, kv heads, tiles, runs, entries; f32 scale; q, k, v,
// grad; tiles, runs, key tiles, entries. results: out, log sums, dq, dk, dv. No input or output has a byte more.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

#define __device__
#define __global__
#define __shared__ static

struct Index {
    unsigned int x, y;
};

static Index threadIdx, blockIdx;

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

enum Stop { WARP, BLOCK, END };

static void wait_at(Stop stop);

static void __syncthreads() { wait_at(BLOCK); }

static void __syncwarp() { wait_at(WARP); }

#include "attention.cu"

const unsigned int WARP_SIZE = 32;
const size_t STACK = 1 << 16;

static ucontext_t scheduler, contexts[THREADS];
static std::vector<char> stacks[THREADS];
static Stop stopped[THREADS];
static unsigned int running;
static std::function<void()> kernel;

static void wait_at(Stop stop) {
    const unsigned int own = running;
    stopped[own] = stop;
    swapcontext(&contexts[own], &scheduler);
}

static void thread() {
    kernel();
    stopped[running] = END;
}

// Runs the threads of a warp to the block's next barrier or to their end.
static Stop run_warp(unsigned int warp, bool up) {
    while (true) {
        const unsigned int first = warp * WARP_SIZE;
        for (unsigned int index = 0; index < WARP_SIZE; index++) {
            running = first + (up ? index : WARP_SIZE - 1 - index);
            threadIdx = {running, 0};
            swapcontext(&scheduler, &contexts[running]);
        }
        for (unsigned int index = 1; index < WARP_SIZE; index++) {
            if (stopped[first + index] != stopped[first]) {
                fail("threads of a warp wait at different barriers");
            }
        }
        if (stopped[first] != WARP) {
            return stopped[first];
        }
    }
}

static void run_block(bool up) {
    for (unsigned int index = 0; index < THREADS; index++) {
        stacks[index].resize(STACK);
        getcontext(&contexts[index]);
        contexts[index].uc_stack.ss_sp = stacks[index].data();
        contexts[index].uc_stack.ss_size = STACK;
        contexts[index].uc_link = &scheduler;
        makecontext(&contexts[index], thread, 0);
    }
    const unsigned int warps = THREADS / WARP_SIZE;
    while (true) {
        Stop last = BLOCK;
        for (unsigned int index = 0; index < warps; index++) {
            const Stop stop = run_warp(up ? index : warps - 1 - index, up);
            if (index > 0 && stop != last) {
                fail("warps of a block wait at different barriers");
            }
            last = stop;
        }
        if (last == END) {
            return;
        }
    }
}

static void launch(unsigned int x, unsigned int y, bool up, std::function<void()> call) {
    kernel = call;
    for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++) {
        for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++) {
            run_block(up);
        }
    }
}

template <typename T> static std::vector<T> read(size_t count) {
    std::vector<T> values(count);
    if (fread(values.data(), sizeof(T), count, stdin) != count) {
        fail("the problem ends early");
    }
    return values;
}

template <typename T> static void write(const std::vector<T> &values) {
    if (fwrite(values.data(), sizeof(T), values.size(), stdout) != values.size()) {
        fail("the results cannot be written");
    }
}

template <typename T, typename Forward, typename OfQueries, typename OfKeys>
static void solve(const unsigned int *sizes, float scale, bool up, Forward forward, OfQueries of_queries, OfKeys of_keys) {
    const size_t dim = sizes[1], queries = sizes[2], keys = sizes[3], heads = sizes[4], kv_heads = sizes[5];
    const size_t count = queries * heads * dim, kv_count = keys * kv_heads * dim;
    const auto q = read<T>(count), k = read<T>(kv_count), v = read<T>(kv_count), grad = read<T>(count);
    const unsigned int key_tile_count = (unsigned int)((keys + KEYS - 1) / KEYS);
    const auto tiles = read<unsigned int>(4 * sizes[6]), runs = read<unsigned int>(3 * sizes[7]);
    const auto key_tiles = read<unsigned int>(2 * key_tile_count), entries = read<unsigned int>(2 * sizes[8]);
    std::vector<T> out(count), dq(count), dk(kv_count), dv(kv_count);
    std::vector<float> log_sums(queries * heads), dots(queries * heads);
    launch(sizes[6], sizes[5], up, [&] {
        forward(q.data(), k.data(), v.data(), out.data(), log_sums.data(), tiles.data(), runs.data(), scale, heads, kv_heads);
    });
    for (size_t at = 0; at < count; at++) {
        dots[at / dim] += load(&out[at]) * load(&grad[at]);
    }
    launch(sizes[6], sizes[5], up, [&] {
        of_queries(q.data(), k.data(), v.data(), grad.data(), log_sums.data(), dots.data(), dq.data(), tiles.data(),
                   runs.data(), scale, heads, kv_heads);
    });
    launch(key_tile_count, sizes[5], up, [&] {
        of_keys(q.data(), k.data(), v.data(), grad.data(), log_sums.data(), dots.data(), dk.data(), dv.data(), tiles.data(),
                runs.data(), key_tiles.data(), entries.data(), scale, keys, heads, kv_heads);
    });
    write(out);
    write(log_sums);
    write(dq);
    write(dk);
    write(dv);
}

#define SOLVE(NAME, T)                                                                                                 \
    solve<T>(sizes.data(), scale, up, attention_##NAME, attention_grad_of_queries_##NAME, attention_grad_of_keys_##NAME)

int main(int count, char **arguments) {
    if (count != 2) {
        fail("on_processor up|down");
    }
    const bool up = strcmp(arguments[1], "up") == 0;
    const auto sizes = read<unsigned int>(9);
    const float scale = read<float>(1)[0];
    if (sizes[0] == 0 && sizes[1] == 80) {
        SOLVE(f32_80, float);
    } else if (sizes[0] == 0 && sizes[1] == 128) {
        SOLVE(f32_128, float);
    } else if (sizes[0] == 1 && sizes[1] == 80) {
        SOLVE(bf16_80, Bf16);
    } else if (sizes[0] == 1 && sizes[1] == 128) {
        SOLVE(bf16_128, Bf16);
    } else {
        fail("no kernel of this type and dim");
    }
    if (getchar() != EOF) {
        fail("the problem goes on");
    }
    return 0;
}
