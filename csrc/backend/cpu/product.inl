// Panels of 16 weight rows times up to kMaxRows activation rows. Included once for each
// instruction set, inside its namespace, after its vec_*.h.
//
// Every output is one lane: its additions run over the columns in one order, whatever R is. One row
// is bound by reading the panel once; more rows reuse the unpacked weights.

// A core keeps 16 lines in flight to its first cache, 1 KiB in the 100 ns of a memory access: too
// few to stream at memory speed, so that lines come to the second cache long before.
constexpr int kNearBytes = 1024, kNearScaleBytes = 512;

inline void stream(const std::byte* line, int far = kFarBytes) {
    prefetch_l2(line + far);
    prefetch_l1(line + kNearBytes);
}

// Of R rows' product with dense weights.
template <int R>
inline int far_bytes() {
    return R == 1 ? far_bytes_of_one_row : kFarBytes;
}

// Unrolled: arrays of vectors that step() writes stay in registers.
template <int R, class Step>
inline void each(Step step) {
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) step(r);
}

template <int R>
void bf16_float(const std::byte* data, const std::byte*, int columns, const void* const* x,
                float* out) {
    F32x16 even[R], odd[R];
    const float* row[R];
    const int far = far_bytes<R>();
    each<R>([&](int r) {
        even[r] = odd[r] = splat(0);
        row[r] = static_cast<const float*>(x[r]);
    });
    for (int k = 0; k < columns; k += 2, data += 64) {
        stream(data, far);
        F32x16 first, second;
        load_bf16_pairs(data, first, second);
        each<R>([&](int r) {
            even[r] = fma(first, splat(row[r][k]), even[r]);
            odd[r] = fma(second, splat(row[r][k + 1]), odd[r]);
        });
    }
    each<R>([&](int r) { store(out + kPanelRows * r, even[r] + odd[r]); });
}

template <int R>
void int8_float(const std::byte* data, const std::byte* scales, int columns, const void* const* x,
                float* out) {
    F32x16 total[R];
    const int far = far_bytes<R>();
    each<R>([&](int r) { total[r] = splat(0); });
    for (int b = 0; b < columns / kBlock; ++b) {
        F32x16 part[R][2];
        each<R>([&](int r) { part[r][0] = part[r][1] = splat(0); });
        for (int j = 0; j < 8; ++j, data += 64) {
            stream(data, far);
            const I32x16 bytes = load_int(data);
            for (int i = 0; i < 4; ++i) {
                const F32x16 w = to_float(low_byte(shift_right(bytes, 8 * i)) - splat_int(128));
                const int k = kBlock * b + 4 * j + i;
                each<R>([&](int r) {
                    const float value = static_cast<const float*>(x[r])[k];
                    part[r][i % 2] = fma(w, splat(value), part[r][i % 2]);
                });
            }
        }
        const F32x16 scale = load_bf16(scales + 2 * kPanelRows * b);
        each<R>([&](int r) { total[r] = fma(scale, part[r][0] + part[r][1], total[r]); });
    }
    each<R>([&](int r) { store(out + kPanelRows * r, total[r]); });
}

template <int R>
void mxfp4_float(const std::byte* data, const std::byte* scales, int columns, const void* const* x,
                 float* out) {
    F32x16 total[R];
    each<R>([&](int r) { total[r] = splat(0); });
    for (int b = 0; b < columns / kBlock; ++b) {
        F32x16 part[R][2];
        each<R>([&](int r) { part[r][0] = part[r][1] = splat(0); });
        for (int j = 0; j < 4; ++j, data += 64) {
            stream(data);
            const I32x16 nibbles = load_int(data);
            for (int i = 0; i < 4; ++i) {
                const F32x16 low = fp4(shift_right(nibbles, 8 * i));
                const F32x16 high = fp4(shift_right(nibbles, 8 * i + 4));
                const int k = kBlock * b + 8 * j + i;
                each<R>([&](int r) {
                    const float* row = static_cast<const float*>(x[r]);
                    part[r][0] = fma(low, splat(row[k]), part[r][0]);
                    part[r][1] = fma(high, splat(row[k + 4]), part[r][1]);
                });
            }
        }
        const F32x16 scale = load_e8m0(scales + kPanelRows * b);
        each<R>([&](int r) { total[r] = fma(scale, part[r][0] + part[r][1], total[r]); });
    }
    each<R>([&](int r) { store(out + kPanelRows * r, total[r]); });
}

// A block's sum is an exact integer: 256 hi + lo, at most 32 * 127 * 32639.
inline F32x16 block_sum(I32x16 hi, I32x16 lo) { return to_float(shift_left(hi, 8) + lo); }

// Calls use(r, hi, lo) with the sums of R rows over block b, of weights that carry `offset` above
// their values: load(part) gives a part of the block's, dot() multiplies it. (Given as lambdas: GCC
// would call a function by its address, four times as slow.)
template <int R, class Load, class Dot, class Use>
inline void block_sums(const BlockRow (&row)[R], int b, int offset, Load load, Dot dot, Use use) {
    const auto start = [&](const int32_t* sum) { return splat_int(-offset * sum[b]); };
    if constexpr (kBlockParts == 1) {
        // Only one row's sums at a time stand beside the tile.
        const ByteTile tile = load(0);
        each<R>([&](int r) {
            const I32x16 hi = dot(tile, row[r].hi + kBlock * b, start(row[r].hi_sum));
            const I32x16 lo = dot(tile, row[r].lo + kBlock * b, start(row[r].lo_sum));
            use(r, hi, lo);
        });
    } else {
        I32x16 hi[R], lo[R];
        each<R>([&](int r) {
            hi[r] = start(row[r].hi_sum);
            lo[r] = start(row[r].lo_sum);
        });
        for (int part = 0; part < kBlockParts; ++part) {
            const ByteTile tile = load(part);
            const int first = kBlock * b + kBlock / kBlockParts * part;
            each<R>([&](int r) {
                hi[r] = dot(tile, row[r].hi + first, hi[r]);
                lo[r] = dot(tile, row[r].lo + first, lo[r]);
            });
        }
        each<R>([&](int r) { use(r, hi[r], lo[r]); });
    }
}

template <int R>
void int8_block(const std::byte* data, const std::byte* scales, int columns, const void* const* x,
                float* out) {
    F32x16 total[R];
    BlockRow row[R];
    const int far = far_bytes<R>();
    each<R>([&](int r) {
        total[r] = splat(0);
        row[r] = block_row(x[r], columns);
    });
    for (int b = 0; b < columns / kBlock; ++b, data += 512) {
        for (int line = 0; line < 512; line += 64) stream(data + line, far);
        const F32x16 scale = load_bf16(scales + 2 * kPanelRows * b);
        block_sums<R>(
            row, b, kInt8Offset,
            [&](int part) { return load_int8(data + 512 / kBlockParts * part); },
            [](const auto&... a) { return dot_int8(a...); },
            [&](int r, I32x16 hi, I32x16 lo) {
                total[r] = fma(scale * splat(row[r].scale[b]), block_sum(hi, lo), total[r]);
            });
    }
    each<R>([&](int r) { store(out + kPanelRows * r, total[r]); });
}

template <int R>
void mxfp4_block(const std::byte* data, const std::byte* scales, int columns, const void* const* x,
                 float* out) {
    F32x16 total[R];
    BlockRow row[R];
    each<R>([&](int r) {
        total[r] = splat(0);
        row[r] = block_row(x[r], columns);
    });
    for (int b = 0; b < columns / kBlock; ++b, data += 256) {
        for (int line = 0; line < 256; line += 64) stream(data + line);
        prefetch_l1(scales + kPanelRows * b + kNearScaleBytes);
        const F32x16 scale = load_e8m0(scales + kPanelRows * b);
        block_sums<R>(
            row, b, kMxfp4Offset,
            [&](int part) { return load_mxfp4(data + 256 / kBlockParts * part); },
            [](const auto&... a) { return dot(a...); },
            [&](int r, I32x16 hi, I32x16 lo) {
                // The tile holds twice the weights.
                total[r] = fma(scale * splat(0.5f * row[r].scale[b]), block_sum(hi, lo), total[r]);
            });
    }
    each<R>([&](int r) { store(out + kPanelRows * r, total[r]); });
}

// Calls the form of `Kernel` made for exactly `rows` rows.
#define GPTOSS_PRODUCT(Kernel)                                                              \
    template <int R>                                                                        \
    void Kernel##_rows(const std::byte* data, const std::byte* scales, int columns,         \
                       const void* const* x, int rows, float* out) {                        \
        if constexpr (R > 1) {                                                              \
            if (rows < R) return Kernel##_rows<R - 1>(data, scales, columns, x, rows, out); \
        }                                                                                   \
        Kernel<R>(data, scales, columns, x, out);                                           \
    }
GPTOSS_PRODUCT(bf16_float)
GPTOSS_PRODUCT(int8_float)
GPTOSS_PRODUCT(int8_block)
GPTOSS_PRODUCT(mxfp4_float)
GPTOSS_PRODUCT(mxfp4_block)
#undef GPTOSS_PRODUCT
