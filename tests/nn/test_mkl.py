"""Which library computes large products, and that MKL gets and gives them as NumPy does."""

import ctypes

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from ringlet.nn import mkl

XEON = "vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f avx512bw\n\nprocessor\t: 1\n"
INSTALLED = mkl.find() is not None


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    """Nothing is asked for, products of any size count as large, and no library is loaded yet."""
    monkeypatch.delenv(mkl.VARIABLE, raising=False)
    monkeypatch.setattr(mkl, "LEAST", 1)
    kept = mkl._library, mkl._gemms
    for each in kept:
        each.cache_clear()
    yield
    for each in kept:
        each.cache_clear()


# -- the choice -------------------------------------------------------------------------------

CHOICES = {
    "a Xeon with MKL": ("", True, XEON, True),
    "a Xeon without": ("", False, XEON, False),
    "without AVX-512": ("", True, XEON.replace("avx512f", "avx512x"), False),
    "AMD's": ("", True, XEON.replace("GenuineIntel", "AuthenticAMD"), False),
    "no /proc": ("", True, None, False),
    "refused": ("numpy", True, XEON, False),
    "refused, without": ("numpy", False, XEON, False),
    "asked for on AMD's": ("mkl", True, XEON.replace("GenuineIntel", "AuthenticAMD"), True),
    "asked for in vain": ("mkl", False, XEON, r"no MKL in .*pip install 'ringlet\[mkl\]'"),
    "a wrong word": ("cublas", True, XEON, "RINGLET_BLAS is 'cublas'; it takes mkl or numpy"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_the_choice(case, monkeypatch, tmp_path):
    asked, there, cpuinfo, expected = CHOICES[case]
    monkeypatch.setenv(mkl.VARIABLE, asked)
    monkeypatch.setattr(mkl, "find", lambda: tmp_path / "libmkl_rt.so" if there else None)
    file = tmp_path / "cpuinfo"
    if cpuinfo:
        file.write_text(cpuinfo)
    if isinstance(expected, bool):
        assert mkl.wanted(file) is expected
        return
    with pytest.raises(mkl.BLASError, match=expected):
        mkl.wanted(file)
    assert mkl.chosen() is mkl.matmul
    with pytest.raises(mkl.BLASError, match=expected):  # not by NumPy instead
        mkl.matmul(np.ones((2, 2)), np.ones((2, 2)))


def test_where_it_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(mkl.sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setattr(mkl.site, "getuserbase", lambda: str(tmp_path / "user"))
    monkeypatch.delenv("MKLROOT", raising=False)
    assert mkl.find() is None
    assert mkl.chosen() is np.matmul
    assert mkl.description() == mkl.NUMPY
    monkeypatch.setenv("MKLROOT", str(tmp_path / "oneapi"))
    for place in ("oneapi", "user", "environment"):  # the later ones come first
        for name in ("libmkl_rt.so.2", "libmkl_rt.so.3", "libmkl_core.so.3"):
            file = tmp_path / place / "lib" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        assert mkl.find() == tmp_path / place / "lib/libmkl_rt.so.3"


def test_a_file_that_is_no_library(monkeypatch, tmp_path):
    file = tmp_path / "libmkl_rt.so"
    file.write_text("no library")
    monkeypatch.setattr(mkl, "find", lambda: file)
    monkeypatch.setenv(mkl.VARIABLE, "mkl")
    with pytest.raises(mkl.BLASError, match=rf"{file} cannot be used \("):
        mkl.description()
    monkeypatch.delenv(mkl.VARIABLE)
    monkeypatch.setattr(mkl, "wanted", lambda: True)
    a = np.eye(2)
    with pytest.warns(RuntimeWarning, match="NumPy computes large products, too"):
        assert (mkl.matmul(a, a) == a).all()


# -- what it computes -------------------------------------------------------------------------


def by_numpy(layout, order_a, order_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """cblas_sgemm, where no MKL is installed."""

    def matrix(address, order, rows, columns, leading):
        outer, inner = (rows, columns) if order == mkl.PLAIN else (columns, rows)
        assert leading >= inner
        count = (outer - 1) * leading + inner
        memory = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
        found = as_strided(memory, (outer, inner), (4 * leading, 4))
        return found if order == mkl.PLAIN else found.T

    assert (layout, alpha, beta) == (mkl.ROW_MAJOR, 1, 0)
    product = matrix(a, order_a, m, k, lda) @ matrix(b, order_b, k, n, ldb)
    matrix(c, mkl.PLAIN, m, n, ldc)[...] = product


@pytest.fixture(params=["stand-in", "MKL"])
def calls(request, monkeypatch):
    """The calls of the function for float32, the stand-in's or MKL's."""
    if request.param == "MKL" and not INSTALLED:
        pytest.skip("no MKL: pip install 'ringlet[mkl]'")
    monkeypatch.setattr(mkl, "wanted", lambda: True)
    gemm, found = by_numpy, []
    gemms = {}
    if request.param == "MKL":
        gemms = mkl._gemms()
        gemm = gemms[np.dtype(np.float32)]

    def counted(*arguments):
        found.append(arguments)
        gemm(*arguments)

    monkeypatch.setattr(mkl, "_gemms", lambda: {**gemms, np.dtype(np.float32): counted})
    return found


def random(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def unaligned(x):
    return np.frombuffer(b"x" + x.tobytes(), x.dtype, offset=1).reshape(x.shape)


def into(x):
    """x, and an `out` that begins in an odd place between other numbers."""
    return (*x, np.full((30, 40), 7, np.float32)[3:20, 5:24])


MATRICES = random(17, 23), random(23, 19)
TAKEN = {
    "plain": MATRICES,
    "the first transposed": (random(23, 17).T, random(23, 19)),
    "the second transposed": (random(17, 23), random(19, 23).T),
    "both transposed": (random(23, 17).T, random(19, 23).T),
    "parts of rows": (random(17, 40)[:, 5:28], random(23, 50)[:, 30:49]),
    "every second row": (random(34, 23)[::2], random(46, 19)[::2]),
    "parts of transposed rows": (random(40, 17)[5:28].T, random(50, 23)[30:49].T),
    "one row": (random(1, 23), random(23, 19)),
    "a row between others": (random(9, 23)[4:5], random(23, 19)),
    "one column": (random(17, 23), random(23, 9)[:, 4:5]),
    "rows of one number": (random(17, 1), random(1, 19)),
    "a column between others": (random(17, 9)[:, 4:5], random(1, 19)),
    "out": into(MATRICES),
}
LEFT = {
    "float64 and float32": (random(17, 23), random(23, 19, dtype=np.float64)),
    "half precision": (random(17, 23, dtype=np.float16), random(23, 19, dtype=np.float16)),
    "integers": (np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2)),
    "every second column": (random(17, 46)[:, ::2], random(23, 19)),
    "reversed rows": (random(17, 23)[::-1], random(23, 19)),
    "one row for all": (np.broadcast_to(random(23), (17, 23)), random(23, 19)),
    "unaligned": (unaligned(random(17, 23)), random(23, 19)),
    "another byte order": (random(17, 23).astype(">f4"), random(23, 19).astype(">f4")),
    "a batch": (random(3, 17, 23), random(3, 23, 19)),
    "vectors": (random(23), random(23, 19)),
    "with itself": (MATRICES[0], MATRICES[0].T),
    "a wider out": (*MATRICES, np.empty((17, 19), np.float64)),
    "an out in the order of columns": (*MATRICES, np.empty((19, 17), np.float32).T),
    "no numbers": (random(17, 0), random(0, 19)),
}


@pytest.mark.parametrize("case", TAKEN)
def test_large_products(calls, case):
    a, b, *out = TAKEN[case]
    around = out[0].base.copy() if out else None
    result = mkl.matmul(a, b, *out)
    assert len(calls) == 1
    assert (result.shape, result.dtype) == ((len(a), b.shape[1]), np.float32)
    np.testing.assert_allclose(result, a.astype(float) @ b, rtol=1e-4, atol=1e-5)
    if out:
        assert result is out[0]
        around[3:20, 5:24] = result
        np.testing.assert_array_equal(result.base, around)


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_to_numpy(calls, case):
    expected = np.matmul(*LEFT[case]).copy()
    np.testing.assert_array_equal(mkl.matmul(*LEFT[case]), expected)
    assert calls == []


def test_out_of_the_operands_memory(calls):
    a = random(8, 8)
    expected = a @ a
    np.testing.assert_array_equal(mkl.matmul(a, a, out=a), expected)
    assert calls == []


REFUSED = {
    "shapes": (random(17, 23), random(22, 19)),
    "out's shape": (*MATRICES, np.empty((17, 18), np.float32)),
    "out's dtype": (*MATRICES, np.empty((17, 19), int)),
    "out's memory": (*MATRICES, np.broadcast_to(np.float32(0), (17, 19))),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_are_numpys(calls, case):
    with pytest.raises((ValueError, TypeError)) as theirs:
        np.matmul(*REFUSED[case])
    with pytest.raises(theirs.type) as ours:
        mkl.matmul(*REFUSED[case])
    assert (str(ours.value), calls) == (str(theirs.value), [])


@pytest.mark.skipif(not INSTALLED, reason="no MKL: pip install 'ringlet[mkl]'")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_at_every_address(monkeypatch, dtype):
    monkeypatch.setattr(mkl, "wanted", lambda: True)
    a, b = random(201, 333, dtype=dtype), random(333, 155, dtype=dtype)
    expected = mkl.matmul(a, b)
    assert np.abs(expected - a.astype(float) @ b.astype(float)).max() < 1e-4
    for shift in range(1, 17):
        moved = [np.empty(x.size + shift, dtype)[shift:].reshape(x.shape) for x in (a, b, expected)]
        moved[0][...], moved[1][...] = a, b
        assert mkl.matmul(*moved).tobytes() == expected.tobytes()
    assert mkl.description().startswith("MKL ")
