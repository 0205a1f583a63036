// How the matrix units add, for both kinds of their products.
#pragma once

namespace gptoss::emulation {

#pragma GCC visibility push(hidden)
// c and the products of 16 columns.
float add_truncated(const double (&products)[16], float c);
#pragma GCC visibility pop

}  // namespace gptoss::emulation
