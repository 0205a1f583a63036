// Included once for each instruction set, inside its namespace, after its vec_*.h.

// e**x by Cody and Waite reduction and a polynomial of degree 6; relative error under 2e-7.
inline F32x16 exp(F32x16 x) {
    // Below this the result is no normal number: zero.
    const F32x16 smallest = splat(-87.3f);
    // With x second, a NaN stays one.
    const F32x16 clamped = min(splat(88.0f), max(smallest, x));
    const I32x16 n = round(clamped * splat(1.44269504f));
    const F32x16 m = to_float(n);
    const F32x16 r = fma(m, splat(2.12194440e-4f), fma(m, splat(-0.693359375f), clamped));
    F32x16 p = splat(1.0f / 720);
    constexpr float kCoefficients[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (float c : kCoefficients) p = fma(p, r, splat(c));
    return where_less(x, smallest, splat(0), p * power_of_two(n));
}
