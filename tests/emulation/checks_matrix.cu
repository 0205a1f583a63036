// Cases of the matrix instructions, asynchronous copies and conversions.
#include <cstring>

#include "emulation/checks.h"

using namespace checks;
using namespace gptoss::cuda;

namespace {

uint32_t pair_of(const uint16_t* p) { return p[0] | uint32_t{p[1]} << 16; }

// out = c + a b; a [16, 16] row by row, b [8, 16] column by column, c [16, 8].
template <bool f16>
__global__ void multiply(const uint16_t* a, const uint16_t* b, const float* c, float* out) {
    const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
    uint32_t left[4];
    float sum[4];
    for (int i = 0; i < 4; ++i) {
        left[i] = pair_of(a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8);
        sum[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    }
    const uint32_t b0 = pair_of(b + g * 16 + 2 * t), b1 = pair_of(b + g * 16 + 2 * t + 8);
    if (f16)
        mma_f16(sum, left, b0, b1);
    else
        mma_bf16(sum, left, b0, b1);
    for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

template <bool f16>
void multiply_input() {
    const auto all = input<uint16_t>();
    const OnDevice<uint16_t> a({all.begin(), all.begin() + 256});
    const OnDevice<uint16_t> b({all.begin() + 256, all.begin() + 384});
    std::vector<float> c(128);
    std::memcpy(c.data(), all.data() + 384, 512);
    const OnDevice<float> addend(c), out(128);
    run(multiply<f16>, 1, 32, 0, a.data(), b.data(), addend.data(), out.data());
    output(out.read());
}

// Four tiles of 8 x 8 in, 32 lanes of 4 words out, plain then transposed.
__global__ void load_tiles(const uint16_t* in, uint32_t* out) {
    std::byte* shared = shared_memory();
    const unsigned lane = threadIdx.x;
    std::memcpy(shared + 16 * lane, in + 8 * lane, 16);
    __syncwarp();
    uint32_t plain[4], transposed[4];
    load_matrix_x4(plain, shared + 16 * lane);
    load_matrix_x4_transposed(transposed, shared + 16 * lane);
    std::memcpy(out + 4 * lane, plain, 16);
    std::memcpy(out + 128 + 4 * lane, transposed, 16);
}

// What a thread sees of three copies, the last invalid, after waiting for all but `pending` groups.
template <int pending>
__global__ void copy(const uint32_t* in, uint32_t* out) {
    std::byte* shared = shared_memory();
    for (int i = 0; i < 3; ++i) {
        copy_async_16(shared + 16 * i, in + 4 * i, i < 2);
        copy_async_commit();
    }
    copy_async_wait<pending>();
    std::memcpy(out, shared, 48);
}

__global__ void copy_misaligned(const uint32_t* in) {
    copy_async_16(shared_memory(), in + 1, true);
}

__global__ void convert(const float* in, int count, uint32_t* out) {
    for (int i = 0; i < count; ++i) {
        const uint32_t half = pack_f16(in[i], -in[i]);
        out[4 * i] = pack_bf16(in[i], -in[i]);
        out[4 * i + 1] = half;
        const float2 back = unpack_f16(half);
        out[4 * i + 2] = __float_as_uint(back.x);
        out[4 * i + 3] = __float_as_uint(back.y);
    }
}

__global__ void multiply_pairs(const uint32_t* in, int count, uint32_t* out) {
    for (int i = 0; i < count; ++i) out[i] = multiply_bf16(in[2 * i], in[2 * i + 1]);
}

// Differences as bf16, then as f16.
__global__ void subtract_pairs(const uint32_t* in, int count, uint32_t* out) {
    for (int i = 0; i < count; ++i) {
        out[i] = subtract_bf16(in[2 * i], in[2 * i + 1]);
        out[count + i] = subtract_f16(in[2 * i], in[2 * i + 1]);
    }
}

CASE(mma_bf16) { multiply_input<false>(); }
CASE(mma_f16) { multiply_input<true>(); }

CASE(ldmatrix) {
    const OnDevice<uint16_t> in(input<uint16_t>());
    const OnDevice<uint32_t> out(256);
    run(load_tiles, 1, 32, 512, in.data(), out.data());
    output(out.read());
}

CASE(copy_async) {
    const OnDevice<uint32_t> in(input<uint32_t>()), out(12);
    run(copy<0>, 1, 1, 48, in.data(), out.data());
    output(out.read());
    run(copy<1>, 1, 1, 48, in.data(), out.data());
    output(out.read());
    run(copy<3>, 1, 1, 48, in.data(), out.data());
    output(out.read());
}

CASE(copy_async_misaligned) { run(copy_misaligned, 1, 1, 16, OnDevice<uint32_t>(8).data()); }

CASE(conversions) {
    const auto values = input<float>();
    const OnDevice<float> in(values);
    const OnDevice<uint32_t> out(4 * values.size());
    run(convert, 1, 1, 0, in.data(), static_cast<int>(values.size()), out.data());
    output(out.read());
}

CASE(bf16_products) {
    const auto pairs = input<uint32_t>();
    const OnDevice<uint32_t> in(pairs), out(pairs.size() / 2);
    run(multiply_pairs, 1, 1, 0, in.data(), static_cast<int>(pairs.size() / 2), out.data());
    output(out.read());
}

CASE(differences) {
    const auto pairs = input<uint32_t>();
    const OnDevice<uint32_t> in(pairs), out(pairs.size());
    run(subtract_pairs, 1, 1, 0, in.data(), static_cast<int>(pairs.size() / 2), out.data());
    output(out.read());
}

}  // namespace
