"""What the compiler makes of products that run on while their threads do (warpgroup.cuh).

The registers of such a product's left operand are its own until it has been waited for; in PTX,
writing them before that is undefined, and the compiler does not complain: a value that is read from
memory before a wait and used after it is read into them. C++ has no way to say so, hence this look
at the PTX: what a product multiplies must have been written after the wait before it.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CUDA = Path(__file__).resolve().parents[1] / "csrc/backend/cuda"
SOURCES = [
    p.name for p in sorted(CUDA.glob("*.cu")) if '"backend/cuda/prefill.cuh"' in p.read_text()
]
PRODUCT = re.compile(r"wgmma\.mma_async[^{]*\{[^}]*\}, \{([^}]*)\}")
WRITTEN = re.compile(r"(?:@!?%p\d+\s+)?[a-z][\w.:]*\s+(\{[^}]*\}|%\w+)")


def count_products(ptx):
    """Return (products, those of them with an operand older than the last wait)."""
    count, early, waited, written = 0, 0, 0, {}
    for number, line in enumerate(map(str.strip, ptx.splitlines())):
        if ".entry" in line:
            waited, written = number, {}
        if "wgmma.wait_group" in line:
            waited = number
        if product := PRODUCT.search(line):
            count += 1
            early += any(written[name.strip()] < waited for name in product[1].split(","))
        elif target := WRITTEN.match(line):
            written |= dict.fromkeys(re.findall(r"%\w+", target[1]), number)
    return count, early


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("source", SOURCES)
def test_a_products_registers_are_written_after_the_wait_that_frees_them(source, tmp_path):
    ptx = tmp_path / "kernels.ptx"
    flags = ["-arch=sm_90a", "-O3", "-DNDEBUG", "-std=c++20", "--expt-relaxed-constexpr"]
    command = ["nvcc", "-ptx", *flags, f"-I{CUDA.parents[1]}", "-o", ptx, CUDA / source]
    subprocess.run(command, check=True)
    count, early = count_products(ptx.read_text())
    assert (count > 0, early) == (True, 0)
