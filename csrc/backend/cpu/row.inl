// Work on one activation row: norm, quantisation, SwiGLU, and sums over the vocabulary. Included
// once for each instruction set, inside its namespace, after its vec_*.h.

void rms_norm(const float* x, const float* gain, int n, float eps, float* out) {
    F32x16 squares[2] = {splat(0), splat(0)};
    for (int i = 0; i < n; i += 32) {
        for (int half = 0; half < 2; ++half) {
            const F32x16 v = load(x + i + 16 * half);
            squares[half] = fma(v, v, squares[half]);
        }
    }
    const float mean = sum(squares[0] + squares[1]) / static_cast<float>(n);
    const F32x16 factor = splat(1.0f / __builtin_sqrtf(mean + eps));
    for (int i = 0; i < n; i += 16) store(out + i, load(x + i) * factor * load(gain + i));
}

// The high byte's 256 steps leave room for a low byte of either sign.
constexpr float kLargest = 127 * 256;

// 32 values in steps; returns the size of a step.
inline float to_steps(const float* x, I32x16* out) {
    F32x16 v[2] = {load(x), load(x + 16)};
    const float largest = max(max(abs(v[0]), abs(v[1])));
    // Zero for finite values; a value that is not finite must not become one.
    const float poison = sum((v[0] - v[0]) + (v[1] - v[1]));
    if (poison != 0) v[0] = v[1] = splat(0);
    const F32x16 steps = splat(poison == 0 && largest > 1e-30f ? kLargest / largest : 0.0f);
    for (int half = 0; half < 2; ++half) {
        const I32x16 q = round(v[half] * steps);
        // A low byte of -128 has no positive twin for vpsignb: one step up.
        const I32x16 low = low_byte(q + splat_int(128));
        out[half] = q + increment_where(low, splat_int(0)) - low;
    }
    return largest / kLargest + poison;
}

void quantize(const float* x, int n, const BlockRow& row, int first_block) {
    for (int b = 0; b < n / kBlock; ++b) {
        const int block = first_block + b;
        I32x16 q[2];
        row.scale[block] = to_steps(x + kBlock * b, q);
        I32x16 hi_sum = splat_int(0), lo_sum = splat_int(0);
        for (int half = 0; half < 2; ++half) {
            const I32x16 hi = shift_right_signed(q[half] + splat_int(128), 8);
            const I32x16 lo = q[half] - shift_left(hi, 8);
            store_int8(row.hi + kBlock * block + 16 * half, hi);
            store_int8(row.lo + kBlock * block + 16 * half, lo);
            hi_sum = hi_sum + hi;
            lo_sum = lo_sum + lo;
        }
        row.hi_sum[block] = sum(hi_sum);
        row.lo_sum[block] = sum(lo_sum);
    }
}

void swiglu(const float* gate, const float* up, int n, float limit, float* out) {
    const F32x16 one = splat(1);
    for (int i = 0; i < n; i += 16) {
        const F32x16 g = min(splat(limit), load(gate + i));
        const F32x16 u = max(splat(-limit), min(splat(limit), load(up + i)));
        const F32x16 sigmoid = one / (one + exp(g * splat(-1.702f)));
        store(out + i, g * sigmoid * (u + one));
    }
}

float max(const float* x, int n) {
    float largest = x[0];
    int i = 0;
    if (n >= 16) {
        F32x16 all = load(x);
        for (; i + 16 <= n; i += 16) all = max(all, load(x + i));
        largest = max(all);
    }
    for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

double sum_exp(const float* x, int n, float max, float scale) {
    double total = 0;
    // The second term is zero, or NaN where x is infinite or NaN.
    const auto weights = [&](const float* p) {
        const F32x16 logit = load(p);
        return exp(splat(scale) * (logit - splat(max))) + (logit - logit);
    };
    int i = 0;
    for (; i + 16 <= n; i += 16) total += sum(weights(x + i));
    float last[16] = {};
    for (int j = 0; i + j < n; ++j) last[j] = x[i + j];
    store(last, weights(last));
    for (int j = 0; i + j < n; ++j) total += last[j];
    return total;
}

void exp_all(const float* x, int n, float max, float scale, float* out) {
    const auto weights = [&](const float* p) { return exp(splat(scale) * (load(p) - splat(max))); };
    int i = 0;
    for (; i + 16 <= n; i += 16) store(out + i, weights(x + i));
    float last[16] = {};
    for (int j = 0; i + j < n; ++j) last[j] = x[i + j];
    store(last, weights(last));
    for (int j = 0; i + j < n; ++j) out[i + j] = last[j];
}

uint64_t read(const std::byte* data, size_t bytes) {
    uint64_t all = 0;
    for (size_t i = 0; i < bytes; i += 256) {
        for (int line = 0; line < 256; line += 64) stream(data + i + line);
        all |= read_256(data + i);
    }
    return all;
}
