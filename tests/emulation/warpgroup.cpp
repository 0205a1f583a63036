// The warpgroup's product (PTX ISA: wgmma.mma_async), a warp's part at a time.
#include "emulation/warpgroup.h"

#include <algorithm>

#include "emulation/matrix.h"

namespace gptoss::emulation {

namespace {

constexpr int kRows = 16, kDepth = 16, kSwizzledBytes = 1024;

const std::byte* place(uint64_t tile, int row, int k) {
    const uint64_t at = tile + static_cast<uint64_t>(row) * 128 + static_cast<uint64_t>(k) * 2;
    return dynamic_shared_memory() + (at ^ (at / 128 % 8 * 16));
}

void compute(Warp& warp, size_t index) {
    double a[kRows][kDepth];
    for (int lane = 0; lane < 32; ++lane) {
        const Product& own = warp.lanes[lane].products[index];
        for (int i = 0; i < 4; ++i) {
            double* at = &a[lane / 4 + i % 2 * 8][lane % 4 * 2 + i / 2 * 8];
            at[0] = decode_bf16(static_cast<uint16_t>(own.a[i]));
            at[1] = decode_bf16(static_cast<uint16_t>(own.a[i] >> 16));
        }
    }
    const Product& first = warp.lanes[0].products[index];
    for (int column = 0; column < first.rows; ++column) {
        double b[kDepth];
        for (int k = 0; k < kDepth; ++k) {
            uint16_t value;
            std::memcpy(&value, place(first.b, column, k), 2);
            b[k] = decode_bf16(value);
        }
        for (int row = 0; row < kRows; ++row) {
            const Product& owner = warp.lanes[row % 8 * 4 + column % 8 / 2].products[index];
            float& sum = owner.sums[column / 8 * 4 + row / 8 * 2 + column % 2];
            double products[kDepth];
            for (int k = 0; k < kDepth; ++k) products[k] = a[row][k] * b[k];
            sum = add_truncated(products, sum);
        }
    }
}

// All lanes have the same list, since all of a warp come to each product.
void compute_due(Warp& warp, unsigned) {
    const Thread& any = warp.lanes[0];
    const uint64_t pending = any.argument;
    size_t due = 0;
    while (due < any.products.size() && any.products[due].group + pending < any.product_groups)
        compute(warp, due++);
    for (int lane = 0; lane < 32; ++lane) {
        auto& own = warp.lanes[lane].products;
        own.erase(own.begin(), own.begin() + static_cast<std::ptrdiff_t>(due));
    }
}

const Collective kWait{"wait_for_products", compute_due};

}  // namespace

void start_product(float* sums, const uint32_t* a, uint64_t b, int rows) {
    if (b % 16 != 0 || b % kSwizzledBytes >= 128) fail("wgmma: a tile is not aligned to 1024");
    running->products.push_back({sums, a, b, rows, running->product_groups});
}

void wait_for_products(unsigned pending_groups, Where where) {
    if (running->warp->exists != ~0u) fail("a matrix instruction in a warp that is not full");
    warp_collective(kWait, ~0u, 0, pending_groups, where);
}

}  // namespace gptoss::emulation
