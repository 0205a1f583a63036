"""The emulated CUDA of tests/emulation: what it computes, and that it finds what it should."""

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulation import build as emulation

HERE = Path(__file__).parent / "emulation"
SOURCES = sorted(HERE.glob("checks*.cu"))
pytestmark = pytest.mark.skipif(emulation.compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder that keeps the emulator's objects."""
    return tmp_path_factory.mktemp("emulation")


@pytest.fixture(scope="module")
def check(folder):
    """Return a function that runs a case of checks*.cu and returns (status, stdout, stderr)."""
    sanitize = os.environ.get("GPTOSS_EMULATION_SANITIZE")
    program = emulation.build(folder, SOURCES, "checks", sanitize)

    def run(case, data=b"", **settings):
        environment = {f"GPTOSS_EMULATION_{name.upper()}": str(v) for name, v in settings.items()}
        done = subprocess.run(
            [program, case],
            input=bytes(data),
            capture_output=True,
            timeout=60,
            env=os.environ | environment,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr.decode()

    return run


@pytest.fixture
def answer(check):
    """Return a function that runs a case that must succeed and returns its stdout."""

    def run(case, data=b"", **settings):
        status, out, errors = check(case, data, **settings)
        assert status == 0, out.decode(errors="replace") + errors
        return out

    return run


@pytest.fixture
def words(answer):
    """Return a function that runs a case that must succeed and returns the words it printed."""
    return lambda case, **settings: answer(case, **settings).decode().split()


def as_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bits_of_bf16(x):
    """Round float64 to bfloat16, to nearest and even, however small."""
    magnitude = np.abs(x)
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(magnitude, where=magnitude > 0, out=np.full(x.shape, -200.0)))
    unit = np.exp2(np.maximum(exponent, -126) - 7)
    with np.errstate(over="ignore"):
        rounded = np.copysign(np.rint(magnitude / unit) * unit, x).astype(np.float32)
    return (rounded.view(np.uint32) >> 16).astype(np.uint16)


def test_collectives_give_what_the_programming_guide_says(answer):
    v = np.random.default_rng(0).integers(-1000, 1000, 32).astype(np.int32)
    lane = np.arange(32)
    votes = np.uint32(sum(1 << i for i in lane if v[i] & 1)).view(np.int32)
    down, up = np.where(lane + 9 < 32, lane + 9, lane), np.where(lane >= 3, lane - 3, lane)
    first_half = lane < 16
    halves = [first_half, ~first_half]
    half_sums = [v[lanes].sum() for lanes in halves]
    half_votes = [sum(1 << int(i) for i in lane[lanes] if v[i] & 1) for lanes in halves]
    want = [
        np.full(32, v[7]),
        v[lane // 8 * 8 + lane * 5 % 8],
        v[lane ^ 16],
        v[np.where((lane ^ 8) <= (lane | 7), lane ^ 8, lane)],
        v[up],
        v[np.where(lane % 4 >= 2, lane - 2, lane)],
        v[down],
        v[np.where(lane % 2 == 0, lane + 1, lane)],
        v[31 - lane],
        v[lane ^ 1],
        np.full(32, votes),
        np.ones(32),
        np.zeros(32),
        np.array([sum(1 << int(j) for j in lane if (v[j] ^ x) & 3 == 0) for x in v])
        .astype(np.uint32)
        .view(np.int32),
        np.full(32, v.sum()),
        np.full(32, v.max()),
        np.full(32, v.min()),
        np.full(32, v.view(np.uint32).max().view(np.int32)),
        np.full(32, v.view(np.uint32).min().view(np.int32)),
        np.where(first_half, *half_sums),
        np.where(first_half, *half_votes).astype(np.uint32).view(np.int32),
    ]
    for seed in range(5):
        got = np.frombuffer(answer("collectives", v.tobytes(), seed=seed), np.int32)
        np.testing.assert_array_equal(got.reshape(-1, 32), np.array(want).astype(np.int32))


@pytest.mark.parametrize("ones", [0, 1, 74, 75])
def test_votes_of_a_block_count_threads_of_every_warp(answer, ones):
    v = np.random.default_rng(1).permutation(np.arange(75) < ones).astype(np.int32)
    got = np.frombuffer(answer("votes", v.tobytes()), np.int32).reshape(75, 3)
    np.testing.assert_array_equal(got, np.tile([ones > 0, ones == 75, ones], (75, 1)))


def test_a_missing_barrier_shows_and_a_present_one_holds(answer):
    v = np.random.default_rng(2).integers(0, 1000, 256).astype(np.int32)
    sums = {
        case: {struct.unpack("i", answer(case, v.tobytes(), seed=seed))[0] for seed in range(8)}
        for case in ("sum", "racy_sum")
    }
    assert sums["sum"] == {v.sum()}
    assert sums["racy_sum"] != {v.sum()}


def test_order_is_random_and_repeats_with_the_seed(answer):
    orders = [answer("order", seed=seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    order = np.frombuffer(orders[0], np.uint32)
    assert sorted(order) == list(range(256))
    assert all(len(set(block)) == 1 for block in (order // 64).reshape(4, 64))
    assert not np.array_equal(order, np.sort(order))


def test_atomics(words):
    assert words("atomics") == ["200", "1", "0", "100", "c800000000", "-199", "ffffffff"]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("some_wait", "32 wait in __syncthreads"),
        ("some_wait", "32 exited, of 64"),
        ("different_barriers", "diverge at a barrier"),
        ("different_shuffles", "16 wait in __shfl_xor_sync"),
        ("some_shuffle", "16 exited, of 32"),
        ("wrong_mask", "not in its own mask"),
        ("exception", "exception left the kernel"),
        ("copy_async_misaligned", "not aligned"),
    ],
)
def test_a_kernel_that_would_hang_or_trap_loses_the_device(check, case, says):
    status, out, errors = check(case)
    assert (status, out.decode().strip()) == (3, "cudaErrorLaunchFailure")
    assert says in errors
    assert errors.count("\n") == 1


def added_truncated(products, c):
    """Sum [.., 16] products and c as a matrix unit does: cut off and rounded to zero."""
    addends = np.concatenate([products, c[..., None].astype(np.float64)], axis=-1)
    _, exponent = np.frexp(np.abs(addends).max(axis=-1))
    unit = np.ldexp(1.0, exponent - 1 - 25)
    total = np.trunc(addends / unit[..., None]).sum(axis=-1) * unit
    rounded = total.astype(np.float32)
    toward_zero = np.nextafter(rounded, np.float32(0))
    return np.where(np.abs(rounded.astype(np.float64)) > np.abs(total), toward_zero, rounded)


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_mma_adds_exact_products_as_the_units_do(answer, kind):
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((16, 16)), rng.standard_normal((8, 16))
    c = rng.standard_normal((16, 8)).astype(np.float32)
    a[0, :4], b[0, :4] = 2.0**-24, 2.0**-20  # subnormal as float16
    if kind == "bf16":
        bits = [bits_of_bf16(x) for x in (a, b)]
        a, b = (as_bf16(x).astype(np.float64) for x in bits)
    else:
        bits = [x.astype(np.float16).view(np.uint16) for x in (a, b)]
        a, b = (x.view(np.float16).astype(np.float64) for x in bits)
    data = bits[0].tobytes() + bits[1].tobytes() + c.tobytes()
    got = np.frombuffer(answer(f"mma_{kind}", data), np.float32).reshape(16, 8)
    products = a[:, None, :] * b[None, :, :]
    np.testing.assert_array_equal(got, added_truncated(products, c))


def test_a_nan_stays_in_its_column(answer):
    a = np.full((16, 16), 0x3F80, np.uint16)
    b = np.full((8, 16), 0x3F80, np.uint16)
    b[5, 3] = 0x7FC0
    data = a.tobytes() + b.tobytes() + np.zeros(128, np.float32).tobytes()
    got = np.frombuffer(answer("mma_bf16", data), np.float32).reshape(16, 8)
    np.testing.assert_array_equal(np.isnan(got), np.tile(np.arange(8) == 5, (16, 1)))
    np.testing.assert_array_equal(got[:, :5], 16)


def test_ldmatrix_gives_pairs_of_a_row_or_of_a_column(answer):
    tiles = np.random.default_rng(4).integers(0, 65536, (4, 8, 8)).astype(np.uint16)
    got = np.frombuffer(answer("ldmatrix", tiles.tobytes()), np.uint16).reshape(2, 32, 4, 2)
    for lane in range(32):
        g, t = divmod(lane, 4)
        np.testing.assert_array_equal(got[0, lane], tiles[:, g, 2 * t : 2 * t + 2])
        np.testing.assert_array_equal(got[1, lane], tiles[:, 2 * t : 2 * t + 2, g])


def test_asynchronous_copies_are_poison_until_waited_for(answer):
    data = np.arange(1, 13, dtype=np.uint32)
    poison = np.full(12, 0xFFFFFFFF, np.uint32)
    complete = np.where(np.arange(12) < 8, data, 0)
    partly = np.where(np.arange(12) < 8, data, poison)
    got = np.frombuffer(answer("copy_async", data.tobytes()), np.uint32).reshape(3, 12)
    np.testing.assert_array_equal(got, [complete, partly, poison])


def test_conversions_round_to_nearest_even(answer):
    bits = np.random.default_rng(5).integers(0, 2**32, 20000, dtype=np.uint64).astype(np.uint32)
    ties = np.arange(2**16, dtype=np.uint32) << 16 | 0x8000
    half_ties = (np.arange(0x7C00).astype(np.uint16).view(np.float16)).astype(np.float64)
    half_ties = ((half_ties[1:] + half_ties[:-1]) / 2).astype(np.float32).view(np.uint32)
    special = np.array([65519.9, 65520, np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32)
    x = np.concatenate([bits, ties, half_ties, special.view(np.uint32)]).view(np.float32)
    got = np.frombuffer(answer("conversions", x.tobytes()), np.uint32).reshape(-1, 4)
    nan = np.isnan(x)
    assert (got[nan, :2] == 0x7FFF7FFF).all()
    assert np.isnan(got[nan, 2:].view(np.float32)).all()
    x, got = x[~nan], got[~nan]
    u = x.view(np.uint32).astype(np.uint64)
    bf16 = (u + 0x7FFF + (u >> 16 & 1) >> 16).astype(np.uint32)
    np.testing.assert_array_equal(got[:, 0], bf16 | (bf16 ^ 0x8000) << 16)
    with np.errstate(over="ignore"):
        f16 = x.astype(np.float16)
    half = f16.view(np.uint16).astype(np.uint32)
    np.testing.assert_array_equal(got[:, 1], half | (half ^ 0x8000) << 16)
    np.testing.assert_array_equal(got[:, 2].view(np.float32), f16.astype(np.float32))
    np.testing.assert_array_equal(got[:, 3].view(np.float32), -f16.astype(np.float32))


def test_bf16_products_round_once_subnormal_or_not(answer):
    rng = np.random.default_rng(6)
    bits = rng.integers(0, 65536, (40000, 4)).astype(np.uint16)
    bits[:20000] = bits[:20000] & 0x807F | rng.integers(50, 75, (20000, 4)).astype(np.uint16) << 7
    with np.errstate(invalid="ignore"):
        x = as_bf16(bits).astype(np.float64)
        product = x[:, :2] * x[:, 2:]
    got = np.frombuffer(answer("bf16_products", bits.tobytes()), np.uint16).reshape(-1, 2)
    finite = np.isfinite(product)
    assert (got[np.isnan(product)] == 0x7FFF).all()
    np.testing.assert_array_equal(got[finite], bits_of_bf16(product[finite]))


def test_differences_round_once_subnormal_or_not(answer):
    bits = np.random.default_rng(7).integers(0, 65536, (40000, 4)).astype(np.uint16)
    bits[:20000] &= 0x83FF  # small ones
    got = np.frombuffer(answer("differences", bits.tobytes()), np.uint16).reshape(2, -1, 2)
    with np.errstate(invalid="ignore", over="ignore"):
        bf16 = as_bf16(bits).astype(np.float64)
        f16 = bits.view(np.float16).astype(np.float64)
        wide, half = (x[:, :2] - x[:, 2:] for x in (bf16, f16))
        finite = np.isfinite(wide)
        np.testing.assert_array_equal(got[0][finite], bits_of_bf16(wide[finite]))
        finite = np.isfinite(half)
        want = half[finite].astype(np.float16).view(np.uint16)
        np.testing.assert_array_equal(got[1][finite], want)


def test_a_copy_to_the_host_is_not_there_before_its_stream_is_waited_for(words):
    assert words("lazy") == ["0", "5", "7"]


def test_events_order_streams(words):
    assert words("events") == ["cudaErrorNotReady", "1", "11", "1"]


def test_a_captured_graph_runs_when_launched_and_as_often(words):
    assert words("graph") == ["0", "0", "21"]


def test_waiting_spoils_a_capture(words):
    pair = ["cudaErrorStreamCaptureUnsupported", "cudaErrorStreamCaptureInvalidated"]
    assert words("capture_refuses") == pair + pair


def test_memory_is_limited_poisoned_and_checked(words):
    bad = ["cudaErrorInvalidValue"] * 3
    want = ["cudaErrorMemoryAllocation", "400", "1000", "ff", *bad]
    assert words("memory", memory=1000) == want


def test_launches_that_a_device_refuses_are_refused(words):
    configuration, value = "cudaErrorInvalidConfiguration", "cudaErrorInvalidValue"
    want = [configuration, configuration, value, value, "cudaSuccess", value, value, "cudaSuccess"]
    assert words("launches") == want


def test_a_lost_device_stays_lost(words):
    assert words("lost") == ["cudaSuccess"] * 6
    assert words("lost", lose=2) == ["cudaSuccess"] * 2 + ["cudaErrorIllegalAddress"] * 4


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({}, "cudaSuccess 1 cudaSuccess emulated 9.0 3 232448"),
        (
            {"sms": 7, "shared": 101376, "capability": 86},
            "cudaSuccess 1 cudaSuccess emulated 8.6 7 101376",
        ),
        ({"devices": 0}, "cudaErrorNoDevice 0 cudaErrorNoDevice  0.0 0 0"),
        ({"driver": "old"}, "cudaErrorInsufficientDriver 0 cudaErrorInsufficientDriver  0.0 0 0"),
    ],
)
def test_the_device_is_described_as_asked(words, settings, want):
    assert words("describe", **settings) == want.split()


def test_host_threads_share_the_device(words):
    assert words("threads") == ["800"]


def test_the_address_sanitizer_sees_overruns_of_device_and_shared_memory(tmp_path):
    sources = [HERE / "checks_main.cu", HERE / "checks_host.cu"]
    try:
        program = emulation.build(tmp_path, sources, "checks", "address")
    except emulation.BuildError as error:
        if "asan" not in str(error):
            raise
        pytest.skip("the compiler has no address sanitizer")
    for case, line in (("reads_beyond_memory", "read_beyond"), ("writes_beyond_shared", "write_")):
        done = subprocess.run([program, case], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "heap-buffer-overflow" in done.stderr
        assert line in done.stderr
    subprocess.run([program, "graph"], check=True, capture_output=True)


def test_build_makes_anew_only_what_changed_and_reports_errors(folder, tmp_path):
    source = tmp_path / "kernel.cu"
    source.write_text("#include <cuda_runtime.h>\n__global__ void kernel() {}\n")
    made = emulation.build(folder, [source], "kernel.so")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.o")}
    source.write_text("#include <cuda_runtime.h>\n__global__ void kernel() { __syncthreads(); }\n")
    assert emulation.build(folder, [source], "kernel.so") == made
    changed = {path.name for path in times if path.stat().st_mtime_ns != times[path]}
    assert [name.split("-")[0] for name in changed] == ["kernel.cu"]
    source.write_text("__global__ void kernel() { nonsense; }\n")
    with pytest.raises(emulation.BuildError, match="nonsense"):
        emulation.build(folder, [source], "kernel.so")
