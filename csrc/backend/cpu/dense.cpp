// The stages over dense weights: embed, qkv, attn_out, logits.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/multiply.h"
#include "backend/cpu/multiply_tiles.h"
#include "backend/kv_slot.h"

namespace gptoss::cpu {

ActivationForm CpuBackend::activation_form(WeightFormat weights) const {
    const bool blocks = precision_ == Precision::kFast && weights != WeightFormat::kBf16;
    return blocks ? ActivationForm::kBlocks : ActivationForm::kFloat;
}

Product CpuBackend::product(WeightFormat weights) const {
    const bool blocks = activation_form(weights) == ActivationForm::kBlocks;
    switch (weights) {
        case WeightFormat::kBf16: return kernels_.bf16_float;
        case WeightFormat::kInt8: return blocks ? kernels_.int8_block : kernels_.int8_float;
        default: return blocks ? kernels_.mxfp4_block : kernels_.mxfp4_float;
    }
}

// Multiplies row_of(i, room for a row) for each row i; use() is as multiply() calls it.
template <class RowOf, class Use>
void CpuBackend::multiply_dense(const Matrix& m, int rows, Form form, RowOf row_of, Use use) {
    const Tiles* tiles = this->tiles(form, m.format, rows >= kTiledRows);
    const bool blocks = activation_form(m.format) == ActivationForm::kBlocks;
    pool_.run(rows, [&](int64_t i, int thread) {
        const float* row = row_of(i, scratch_.staging + thread * scratch_.widest);
        std::byte* out = scratch_.activations + i * m.columns * sizeof(float);
        if (tiles)
            tiles->convert(row, m.columns, ColumnOrder::kPlain,
                           tile_row(*tiles, scratch_.tiles.x, static_cast<int>(i), m.columns));
        else if (blocks)
            kernels_.quantize(row, m.columns, block_row(out, m.columns), 0);
        else
            std::copy(row, row + m.columns, reinterpret_cast<float*>(out));
    });
    if (tiles)
        multiply_tiled(pool_, *tiles, scratch_.tiles, m, rows, use);
    else
        multiply(pool_, kernels_, product(m.format), m, scratch_.activations, rows, use);
}

void CpuBackend::embed(const EmbedArgs& a) {
    pool_.run(a.tokens, [&](int64_t t, int) {
        const int named = a.rows[t].token;
        const int token = named < 0 ? std::max(a.chosen[-1 - named].token, 0) : named;
        const bf16* row = a.table + size_t(token) * a.hidden;
        for (int i = 0; i < a.hidden; ++i) a.x[t * a.hidden + i] = to_float(row[i]);
    });
}

namespace {

// Rotates the two halves of a head against each other.
void rotate(float* head, const float* cosine, const float* sine, int half) {
    for (int i = 0; i < half; ++i) {
        const float first = head[i], second = head[i + half];
        head[i] = first * cosine[i] - second * sine[i];
        head[i + half] = second * cosine[i] + first * sine[i];
    }
}

template <class T>
void keep_head(const KvSlot& slot, const float* k, const float* v, int head_dim) {
    T* keys = reinterpret_cast<T*>(slot.key_tile) + slot.lane;
    T* values = reinterpret_cast<T*>(slot.value_tile) + slot.lane * head_dim;
    for (int d = 0; d < head_dim; ++d) {
        keys[d * kKvTile] = from_float<T>(k[d]);
        values[d] = from_float<T>(v[d]);
    }
}

}  // namespace

void CpuBackend::qkv(const QkvArgs& a) {
    multiply_dense(
        a.weight, a.tokens, a.form,
        [&](int64_t t, float* row) {
            kernels_.rms_norm(a.x + t * a.hidden, a.norm, a.hidden, a.eps, row);
            return row;
        },
        [&](int t, int first, int count, const float* values) {
            float* out = scratch_.qkv + size_t(t) * a.weight.rows + first;
            for (int i = 0; i < count; ++i) out[i] = values[i] + a.bias[first + i];
        });
    const int width = a.weight.rows;
    const int half = a.head_dim / 2, query_rows = a.heads * a.head_dim;
    pool_.run(a.tokens, [&](int64_t t, int) {
        const Row& row = a.rows[t];
        float cosine[kMostHeadDim / 2], sine[kMostHeadDim / 2];
        for (int i = 0; i < half; ++i) {
            // The model's published angle is a float32 product; far positions feel its rounding.
            const float angle = static_cast<float>(row.position) * a.inv_freq[i];
            cosine[i] = static_cast<float>(std::cos(double{angle})) * a.concentration;
            sine[i] = static_cast<float>(std::sin(double{angle})) * a.concentration;
        }
        float* q = scratch_.qkv + t * width;
        float* k = q + query_rows;
        const float* v = k + a.kv_heads * a.head_dim;
        for (int head = 0; head < a.heads + a.kv_heads; ++head)
            rotate(q + head * a.head_dim, cosine, sine, half);
        std::copy(q, q + query_rows, a.q + t * query_rows);
        for (int head = 0; head < a.kv_heads; ++head) {
            const KvSlot slot = kv_slot(*row.kv, a.kv, row.position, head, a.kv_heads, a.head_dim);
            const int offset = head * a.head_dim;
            with_kv_type(a.kv.type, [&]<class T>(T) {
                keep_head<T>(slot, k + offset, v + offset, a.head_dim);
            });
        }
    });
}

void CpuBackend::attn_out(const AttnOutArgs& a) {
    multiply_dense(
        a.weight, a.tokens, a.form, [&](int64_t t, float*) { return a.attention + t * a.columns; },
        [&](int t, int first, int count, const float* values) {
            float* x = a.x + size_t(t) * a.hidden + first;
            for (int i = 0; i < count; ++i) x[i] += values[i] + a.bias[first + i];
        });
}

void CpuBackend::logits(const LogitsArgs& a) {
    multiply_dense(
        a.weight, a.outputs, Form::kDecode,
        [&](int64_t i, float* row) {
            kernels_.rms_norm(a.x + size_t(a.row[i]) * a.hidden, a.norm, a.hidden, a.eps, row);
            return row;
        },
        [&](int i, int first, int count, const float* values) {
            std::copy(values, values + count, a.logits + size_t(i) * a.vocab + first);
        });
}

}  // namespace gptoss::cpu
