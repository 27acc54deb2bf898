"""PyTorch's own tests of operators and modules, run on ringlet: `pytest -m torch -s`.

PyTorch's wheel holds databases (`op_db`, `module_db`) of sample inputs, and of inputs that must
be refused. Of each operator and module that ringlet has under its name, all are tried with both
libraries, and a table is printed. It counts as right if shapes, dtypes, values and gradients are
the same, or if ringlet refuses with an error of its own, or Python's that names an argument. What
differs otherwise is on the list torch/accepted.toml, with a reason.
"""

import collections
import dis
import functools
import itertools
import re
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn import creation
from ringlet.nn import functional as F

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="torch.testing._internal needs it")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import FunctionInput, module_db

ACCEPTED = tomllib.loads(Path(__file__).with_name("torch").joinpath("accepted.toml").read_text())
DTYPES = torch.float64, torch.float32, torch.int64, torch.bool
TOLERANCES = {"float64": (1e-7, 1e-9), "float32": (1e-4, 1e-5), "float16": (1e-2, 1e-3)}
COLUMNS = (
    "same", "refused", "accepted", "different", "errors refused", "errors accepted", "errors taken",
)  # fmt: skip
RIGHT = 0.98
"""The share of samples that must be the same or refused."""

RANDOM = {
    "bernoulli", "empty", "empty_like", "multinomial", "new_empty", "nn.functional.dropout",
    "normal", "rand_like", "randint", "randint_like", "randn", "randn_like", "uniform",
}  # fmt: skip
"""Operators whose values are drawn: shapes and dtypes are compared."""

CALLS = {
    "einsum": lambda terms, equation: F.einsum(equation, *terms),
    "nn.functional.embedding": lambda weight, ids, **options: F.embedding(ids, weight, **options),
    "where": lambda x, condition, other: F.where(condition, x, other),
}
"""Operators whose samples have their arguments in another order."""


class Given:
    """A call's arguments for ringlet; `leaves` are the tensors that need a gradient, in pairs."""

    def __init__(self, call):
        self.leaves, self._known = [], {}
        self.args, self.kwargs = self._of(call.args), self._of(call.kwargs)

    def _of(self, value):
        if isinstance(value, torch.Tensor):
            if id(value) not in self._known:
                own = nn.Tensor(value.detach().numpy().copy(order="K"), value.requires_grad)
                self._known[id(value)] = own
                self.leaves += [(value, own)] if value.requires_grad else []
            return self._known[id(value)]
        if isinstance(value, torch.dtype):
            return torch.empty(0, dtype=value).numpy().dtype  # TypeError: NumPy has no bfloat16
        if isinstance(value, torch.memory_format | torch.layout | torch.device):
            raise TypeError("only PyTorch has it")
        if isinstance(value, torch.nn.TransformerEncoderLayer):
            norms = value.activation, value.norm1.eps, value.self_attn.batch_first, value.norm_first
            sizes = value.linear1.in_features, value.self_attn.num_heads, value.linear1.out_features
            options = (*norms, value.linear1.bias is not None)
            return nn.TransformerEncoderLayer(*sizes, value.dropout.p, *self._of(options))
        if callable(value) and hasattr(F, getattr(value, "__name__", "")):
            return getattr(F, value.__name__)
        if type(value) in (list, tuple, torch.Size):
            return (list if type(value) is list else tuple)(self._of(each) for each in value)
        return {k: self._of(v) for k, v in value.items()} if isinstance(value, dict) else value


def described(value):
    """A call in short, as one would write it."""
    if isinstance(value, FunctionInput):
        options = ", ".join(f"{name}={described(each)}" for name, each in value.kwargs.items())
        return f"{described(value.args)} {options}"
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return (
        f"({', '.join(map(described, value))})" if isinstance(value, tuple | list) else repr(value)
    )


def tried(function, *args, **options):
    """(result, None), or (None, error)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **options), None
    except Exception as error:
        return None, error


def is_clear(error):
    """Whether it was raised by a statement of ringlet, or is Python's about a call's arguments."""
    place = error.__traceback__
    while place.tb_next:
        place = place.tb_next
    code = place.tb_frame.f_code
    raised = code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    of_python = isinstance(error, TypeError) and "argument" in str(error)
    return of_python or (raised and "/nn/" in code.co_filename)


def flat(results):
    """The tensors and numbers of a result."""
    if isinstance(results, list | tuple):
        return [each for result in results for each in flat(result)]
    return [] if results is None else [results]


def array(value):
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    return np.asarray(nn.to_host(value.data if isinstance(value, nn.Tensor) else value))


def unequal(expected, found, drawn=False, factor=1):
    if expected.shape != found.shape:
        return "shape"
    if expected.dtype != found.dtype:
        return "dtype"
    rtol, atol = TOLERANCES.get(expected.dtype.name, (0, 0))
    same = drawn or np.allclose(found, expected, rtol, atol * factor, equal_nan=True)
    return None if same else "value"


def difference(theirs, make, given, drawn):
    """What is not as in PyTorch's result: "number", "shape", "dtype", "value", "gradient", or None.

    `make` returns ringlet's function, and leaves of its own.
    """
    function, leaves = make()
    theirs, own = flat(theirs), flat(function(*given.args, **given.kwargs))
    leaves = [*leaves, *given.leaves]
    if len(theirs) != len(own):
        return "number"
    pairs = list(zip(theirs, own, strict=True))
    for expected, found in pairs:
        if what := unequal(array(expected), array(found), drawn):
            return what
    pairs = [pair for pair in pairs if getattr(pair[0], "requires_grad", False)]
    if drawn or not leaves or not pairs:
        return None
    draw = np.random.default_rng(0).standard_normal
    weights = [draw(x.shape).astype(array(x).dtype) for x, _ in pairs]
    both = zip(pairs, weights, strict=True)
    parts = [(y * nn.Tensor(w)).sum() for (_, y), w in both if y.requires_grad]
    if parts:  # else the gradients are zeros
        sum(parts[1:], parts[0]).backward()
    weights = [torch.from_numpy(w) for w in weights]
    results, inputs = [x for x, _ in pairs], [x for x, _ in leaves]
    expected = torch.autograd.grad(results, inputs, weights, materialize_grads=True)
    found = [np.zeros(y.shape, y.dtype) if y.grad is None else array(y.grad) for _, y in leaves]
    wrong = [unequal(array(x), y, factor=10) for x, y in zip(expected, found, strict=True)]
    return "gradient" if any(wrong) else None


class Table:
    """What became of each operator's samples."""

    def __init__(self):
        self.rows = collections.defaultdict(collections.Counter)
        self.examples, self.used = collections.defaultdict(list), set()
        self.finished = 0

    def add(self, name, outcome, text):
        """Count a sample; an outcome that has no column is a difference."""
        if outcome not in COLUMNS:
            rows = enumerate(ACCEPTED["differences"])
            fits = [
                n
                for n, row in rows
                if name in row["of"] and outcome in row["what"] and re.search(row["where"], text)
            ]
            self.used |= set(fits)
            if not fits:
                self.examples[name].append(f"{outcome}: {text}")
            prefix, wrong = ("errors ", "taken") if outcome == "no error" else ("", "different")
            outcome = prefix + ("accepted" if fits else wrong)
        self.rows[name][outcome] += 1

    def compare(self, name, theirs, make, call, drawn=False, text=""):
        """Compare PyTorch's result with that of ringlet; see `difference`."""
        given, error = tried(Given, call)
        if error is None:  # else it has something that NumPy has not
            outcome, error = tried(difference, theirs, make, given, drawn)
            if error is not None:
                outcome = "refused" if is_clear(error) else f"{type(error).__name__} {error}"
            self.add(name, outcome or "same", f"{text}{described(call)}")

    def refuse(self, name, make, call, text):
        """Try what PyTorch refuses."""
        given, error = tried(Given, call)
        if error is None:
            _, error = tried(lambda: make()[0](*given.args, **given.kwargs))
            self.add(name, "errors refused" if error else "no error", f"{text}{described(call)}")

    def finish(self, name):
        """Fail if something about an operator differs, and is not on the list."""
        self.finished += 1
        found = dict.fromkeys(self.examples.pop(name, []))
        if found:
            pytest.fail("\n".join(found), pytrace=False)

    def totals(self):
        return sum(self.rows.values(), collections.Counter())


@pytest.fixture(scope="module")
def table():
    whole = Table()
    yield whole
    print(f"\n{'':40}samples{''.join(f'{column:>16}' for column in COLUMNS)}")
    for name, row in [*sorted(whole.rows.items()), ("all", whole.totals())]:
        counts = "".join(f"{row[column] or '-':>16}" for column in COLUMNS)
        print(f"{name:40}{sum(row[column] for column in COLUMNS[:4]):7}{counts}")


def function_of(operator):
    """ringlet's function of this name, or None."""
    name = operator.name.removeprefix("nn.functional.")
    if operator.name in CALLS:
        return CALLS[operator.name]
    if isinstance(vars(nn.Tensor).get(name), property):
        return lambda x: getattr(x, name)
    if name.endswith("_") and hasattr(nn.Tensor, name) and not name.endswith("__"):
        return lambda x, *args: getattr(x.clone(), name)(*args)
    places = (vars(place).get(name) for place in (F, nn.Tensor, nn, creation))
    return next((each for each in places if callable(each) and not isinstance(each, type)), None)


LEFT_OUT = {"triton_optimized", "in_place"}  # normal's form of the latter is normal_
OPERATORS = [each for each in op_db if function_of(each) and each.variant_test_name not in LEFT_OUT]
MODULES = [each for each in module_db if hasattr(nn, each.module_cls.__name__)]


def named(each):
    return each.formatted_name


@pytest.mark.parametrize("operator", OPERATORS, ids=named)
def test_operator(table, operator):
    name, function = operator.name, function_of(operator)
    for dtype in (each for each in DTYPES if each in operator.supported_dtypes("cpu")):
        grads = operator.supports_autograd and dtype.is_floating_point
        for sample in operator.sample_inputs("cpu", dtype, requires_grad=grads):
            call = FunctionInput(sample.input, *sample.args, **sample.kwargs)
            theirs, error = tried(operator.op, *call.args, **call.kwargs)
            if error is None:
                table.compare(name, theirs, lambda: (function, []), call, name in RANDOM)
    for wrong in operator.error_inputs("cpu") if operator.error_inputs_func else ():
        sample = wrong.sample_input
        call = FunctionInput(sample.input, *sample.args, **sample.kwargs)
        table.refuse(name, lambda: (function, []), call, f"{wrong.error_regex!r}: ")
    table.finish(name)


def built(name, arguments, theirs=None):
    """ringlet's module, with the parameters of PyTorch's: (module, parameters in pairs)."""
    given = Given(arguments)
    own = getattr(nn, name)(*given.args, **given.kwargs)
    if theirs is None:
        return own, []
    pairs, named = dict(theirs.named_parameters()), dict(own.named_parameters())
    assert named.keys() == pairs.keys()
    for key, parameter in pairs.items():
        named[key].data = nn.asarray(parameter.detach().numpy().copy())
    return own.train(theirs.training), [(pairs[key], named[key]) for key in pairs]


@pytest.mark.parametrize("info", MODULES, ids=named)
def test_module(table, info):
    torch.manual_seed(0)
    name = info.module_cls.__name__
    dtypes = [each for each in DTYPES if each in info.supported_dtypes("cpu")]
    errors = info.module_error_inputs_func or (lambda *args: [])
    for dtype, training in itertools.product(dtypes, (True, False)):
        for sample in info.module_inputs_func(info, "cpu", dtype, True, training):
            given, call = sample.constructor_input, sample.forward_input
            module = info.module_cls(*given.args, **given.kwargs).to(dtype).train(training)
            theirs, error = tried(module, *call.args, **call.kwargs)
            if error is None:
                make = functools.partial(built, name, given, module)
                table.compare(name, theirs, make, call, text=f"{described(given)} of ")
        for wrong in errors(info, "cpu", dtype, True, training):
            sample = wrong.module_error_input
            call = sample.forward_input or FunctionInput()
            make = functools.partial(built, name, sample.constructor_input)
            table.refuse(name, make, call, f"{wrong.error_regex!r}: ")
    table.finish(name)


def test_nearly_all_samples_are_the_same_or_refused(table):
    if table.finished < len(OPERATORS) + len(MODULES):
        pytest.skip("counts all samples: run this whole file in one process")
    total = table.totals()
    right, samples = (sum(total[column] for column in COLUMNS[:n]) for n in (2, 4))
    assert right >= RIGHT * samples
    unused = [row for n, row in enumerate(ACCEPTED["differences"]) if n not in table.used]
    assert all("sometimes" in row for row in unused), f"on the list without need: {unused}"
