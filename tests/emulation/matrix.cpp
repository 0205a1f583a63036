// The warp's matrix instructions and asynchronous copies (PTX ISA: mma.m16n8k16, ldmatrix,
// cp.async). Operands stay on the lanes' stacks; whoever comes last works for all.
#include "emulation/matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "emulation/ptx.h"

namespace gptoss::emulation {

namespace {

constexpr int kRows = 16, kColumns = 8, kDepth = 16;

}  // namespace

// As the units add (modelled by several papers from experiments on cards): addends are
// aligned to the largest, cut off 25 bits below its leading one, and the sum is rounded to zero.
float add_truncated(const double (&products)[kDepth], float c) {
    constexpr int kKeptBits = 25, kBias = 1023;
    double largest = std::abs(static_cast<double>(c)), plain = c;
    for (double p : products) {
        largest = std::max(largest, std::abs(p));
        plain += p;
    }
    if (!(std::abs(plain) <= std::numeric_limits<float>::max()) || largest == 0)
        return static_cast<float>(plain);
    const int exponent = static_cast<int>(std::bit_cast<uint64_t>(largest) >> 52) - kBias;
    const auto power = [](int e) { return std::bit_cast<double>(uint64_t(e + kBias) << 52); };
    const double scale = power(kKeptBits - exponent);
    auto sum = static_cast<int64_t>(c * scale);
    for (double p : products) sum += static_cast<int64_t>(p * scale);
    const double value = static_cast<double>(sum) * power(exponent - kKeptBits);
    const float rounded = static_cast<float>(value);
    return std::abs(static_cast<double>(rounded)) > std::abs(value) ? std::nextafter(rounded, 0.0f)
                                                                    : rounded;
}

namespace {

struct MultiplyOperands {
    float (*c)[4];
    const uint32_t (*a)[4];
    uint32_t b[2];
};

template <class T>
T& operands(Warp& warp, int lane) {
    return *reinterpret_cast<T*>(warp.lanes[lane].operand);
}

// Lane 4 g + t holds columns 2 t, 2 t + 1 of row g, and of row g + 8: f(lane, place, row, column).
template <class F>
void for_each_result(F f) {
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) f(lane, i, lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
    }
}

template <float (*decode)(uint16_t)>
void compute_multiply(Warp& warp, unsigned) {
    double a[kRows][kDepth];
    double b[kDepth][kColumns];
    const auto unpack = [](uint32_t pair, double& low, double& high) {
        low = decode(static_cast<uint16_t>(pair));
        high = decode(static_cast<uint16_t>(pair >> 16));
    };
    for (int lane = 0; lane < 32; ++lane) {
        const auto& own = operands<MultiplyOperands>(warp, lane);
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) {
            double* at = &a[g + i % 2 * 8][2 * t + i / 2 * 8];
            unpack((*own.a)[i], at[0], at[1]);
        }
        for (int i = 0; i < 2; ++i) {
            const int k = 2 * t + 8 * i;
            unpack(own.b[i], b[k][g], b[k + 1][g]);
        }
    }
    for_each_result([&](int lane, int i, int row, int column) {
        float& c = (*operands<MultiplyOperands>(warp, lane).c)[i];
        double products[kDepth];
        for (int k = 0; k < kDepth; ++k) products[k] = a[row][k] * b[k][column];
        c = add_truncated(products, c);
    });
}

struct LoadOperands {
    const void* row;
    uint32_t (*r)[4];
    bool transposed;
};

void compute_load(Warp& warp, unsigned) {
    for (int tile = 0; tile < 4; ++tile) {
        uint16_t values[8][8];
        for (int row = 0; row < 8; ++row) {
            std::memcpy(values[row], operands<LoadOperands>(warp, 8 * tile + row).row, 16);
        }
        for (int lane = 0; lane < 32; ++lane) {
            const auto& own = operands<LoadOperands>(warp, lane);
            const int g = lane / 4, t = lane % 4;
            const uint32_t low = own.transposed ? values[2 * t][g] : values[g][2 * t];
            const uint32_t high = own.transposed ? values[2 * t + 1][g] : values[g][2 * t + 1];
            (*own.r)[tile] = low | high << 16;
        }
    }
}

const Collective kMultiplyBf16{"mma_bf16", compute_multiply<decode_bf16>},
    kMultiplyF16{"mma_f16", compute_multiply<decode_f16>};
const Collective kLoad{"load_matrix_x4", compute_load},
    kLoadTransposed{"load_matrix_x4_transposed", compute_load};

void collect(const Collective& kind, void* own, Where where) {
    if (running->warp->exists != ~0u) fail("a matrix instruction in a warp that is not full");
    warp_collective(kind, ~0u, reinterpret_cast<uint64_t>(own), 0, where);
}

bool aligned(const void* p, unsigned bytes = 16) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

}  // namespace

void multiply_tiles(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool f16,
                    Where where) {
    MultiplyOperands own{&c, &a, {b0, b1}};
    collect(f16 ? kMultiplyF16 : kMultiplyBf16, &own, where);
}

void load_tiles(uint32_t (&r)[4], const void* row, bool transposed, Where where) {
    if (!aligned(row)) fail("ldmatrix: a row is not aligned to 16 bytes");
    LoadOperands own{row, &r, transposed};
    collect(transposed ? kLoadTransposed : kLoad, &own, where);
}

void copy_async(void* shared, const void* global, unsigned bytes) {
    if (!aligned(shared, bytes) || !aligned(global, bytes))
        fail("cp.async: an address is not aligned to what is copied");
    std::memset(shared, 0xff, bytes);
    running->copies.push_back({shared, global, bytes, running->copy_groups});
}

void wait_for_copies(unsigned pending_groups) {
    Thread& self = *running;
    const auto pending = [&](const AsyncCopy& copy) {
        return copy.group + pending_groups >= self.copy_groups;
    };
    const auto first_pending = std::find_if(self.copies.begin(), self.copies.end(), pending);
    for (auto copy = self.copies.begin(); copy != first_pending; ++copy) {
        if (copy->from == nullptr) {
            std::memset(copy->to, 0, copy->bytes);
        } else {
            std::memcpy(copy->to, copy->from, copy->bytes);
        }
    }
    self.copies.erase(self.copies.begin(), first_pending);
}

}  // namespace gptoss::emulation
