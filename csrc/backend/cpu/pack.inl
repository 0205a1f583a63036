// From published rows to panels, 16 rows at a time. Included once for each instruction set, inside
// its namespace, after its vec_*.h.

// Words `first` to `first` + 15 of each row of `bytes` bytes, transposed: out[16 i + r] is word
// first + i of row r, zero past its end or where there is no row.
inline void transpose_words(const void* const* rows, size_t first, size_t words, uint32_t* out) {
    const size_t count = words - first < 16 ? words - first : 16;
    I32x16 lines[16];
    for (int r = 0; r < kPanelRows; ++r) {
        uint32_t line[16] = {};
        const auto* row = static_cast<const std::byte*>(rows[r]);
        if (row && count == 16)
            lines[r] = load_int(row + 4 * first);
        else {
            if (row) __builtin_memcpy(line, row + 4 * first, 4 * count);
            lines[r] = load_int(line);
        }
    }
    transpose(lines, out);
}

// Of each 16 words of the rows convert(vector of one word of each row) goes to the panel.
template <class Convert>
inline void pack_words(const void* const* rows, size_t words, std::byte* panel, Convert convert) {
    alignas(64) uint32_t tile[256];
    for (size_t first = 0; first < words; first += 16) {
        transpose_words(rows, first, words, tile);
        for (size_t i = 0; i < 16 && first + i < words; ++i)
            store_int(panel + 64 * (first + i), convert(load_int(tile + 16 * i)));
    }
}

void pack_bf16(const PanelRows& rows, int columns, std::byte* panel) {
    pack_words(rows.row, columns / 2, panel, [](I32x16 word) { return word; });
}

// Eight nibbles n0..n7 of consecutive columns, lowest first, to bytes n0|n4, n1|n5, n2|n6, n3|n7,
// so that one mask and one shift give four consecutive columns each.
void pack_mxfp4(const PanelRows& rows, int columns, std::byte* panel) {
    const I32x16 low_half = splat_int(0xffff), bytes = splat_int(0x00ff00ff),
                 nibbles = splat_int(0x0f0f0f0f);
    const auto spread = [&](I32x16 four) {
        four = (four | shift_left(four, 8)) & bytes;
        return (four | shift_left(four, 4)) & nibbles;
    };
    pack_words(rows.row, columns / 8, panel, [&](I32x16 word) {
        return spread(word & low_half) | shift_left(spread(shift_right(word, 16)), 4);
    });
}

// A lane a row, as everywhere: each of its blocks is rounded to q - 128 steps of a bf16 scale.
void pack_int8(const PanelRows& rows, int columns, std::byte* panel, std::byte* scales,
               SquaredError& squared) {
    const F32x16 tiny = splat(1e-30f), most = splat(127);
    alignas(64) uint32_t tile[256];
    for (int b = 0; b < columns / kBlock; ++b) {
        transpose_words(rows.row, 16 * b, columns / 2, tile);
        F32x16 w[kBlock], largest = splat(0), poison = splat(0);
        for (int i = 0; i < kBlock; i += 2) {
            load_bf16_pairs(tile + 8 * i, w[i], w[i + 1]);
            largest = max(largest, max(abs(w[i]), abs(w[i + 1])));
            // NaN where a weight is not finite: then the scale is, and every result.
            poison = poison + ((w[i] - w[i]) + (w[i + 1] - w[i + 1]));
        }
        // Rounded up to bf16, so that the largest value still fits in 127 steps.
        const I32x16 wanted = bits(largest / most);
        const I32x16 odd = shift_right(wanted, 16) & splat_int(1);
        const I32x16 near = (wanted + splat_int(0x7fff) + odd) & splat_int(int(0xffff0000));
        F32x16 step = from_bits(near);
        step = where_less(step * most, largest, from_bits(near + splat_int(0x10000)), step);
        const F32x16 steps = where_less(largest, tiny, splat(0), splat(1) / step);
        step = where_less(largest, tiny, splat(0), step) + poison;
        store_high_halves(scales + size_t(b) * kPanelRows * 2, bits(step));
        F32x16 error = splat(0), weight = splat(0);
        for (int i = 0; i < kBlock; i += 4) {
            I32x16 word = splat_int(0);
            for (int j = 0; j < 4; ++j) {
                const F32x16 value = w[i + j];
                const I32x16 q = round(min(most, max(splat(-127), value * steps)));
                word = word | shift_left(low_byte(q + splat_int(128)), 8 * j);
                const F32x16 lost = to_float(q) * step - value;
                error = error + lost * lost;
                weight = weight + value * value;
            }
            store_int(panel + 64 * size_t(8 * b + i / 4), word);
        }
        squared.error += sum(error);
        squared.weight += sum(weight);
    }
}
