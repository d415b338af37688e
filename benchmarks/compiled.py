"""What a compiled program does, read from its text (`compiled.as_text()`): used by `benchmarks.scale`.

The text lists computations; a fusion, a loop or an asynchronous operation calls others. Arrays whose
layout ends with S(1) lie in the memory of the chip itself; all others lie in the device's main memory.
"""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

BITS = {"pred": 8, "bf16": 16}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
PASSES = {"high": 3, "highest": 6}  # of jax.lax.Precision on a TPU
# Instructions that move nothing by themselves.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
    "after-all", "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_MANY_CALLED = re.compile(r"(?:called_computations|branch_computations)=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in the text: its type, shape, and whether it lies in the chip's own memory."""

    dtype: str
    shape: tuple[int, ...]
    on_chip: bool

    @property
    def bytes(self) -> int:
        """Its size."""
        digits = re.search(r"\d+", self.dtype)
        bits = BITS.get(self.dtype) or (int(digits[0]) if digits else 0)
        return math.prod(self.shape) * bits // 8


def arrays(text: str) -> list[Array]:
    """The arrays of a type, which may be a tuple."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        shape = tuple(int(n) for n in dims.split(",") if n)
        found.append(Array(dtype, shape, bool(re.search(r"S\([1-9]\d*\)", layout))))
    return found


@dataclasses.dataclass(frozen=True)
class Instruction:
    """name = type operation(operands), attributes."""

    name: str
    type: str
    operation: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def called(self) -> list[str]:
        """The computations that it calls."""
        many = [
            name for group in _MANY_CALLED.findall(self.attributes) for name in group.split(",")
        ]
        return [*_CALLED.findall(self.attributes), *(name.strip().lstrip("%") for name in many)]

    @property
    def source(self) -> str:
        """The operation of the network that it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else self.name


def _closing(text: str, start: int) -> int:
    """The place after the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _instruction(line: str) -> Instruction | None:
    head, equals, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    if not equals or not re.fullmatch(r"%?[\w.\-]+", head):
        return None
    end = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    named = re.match(r"([a-z][\w\-]*)\(", rest)
    if named is None:
        return None
    stop = _closing(rest, named.end() - 1)
    names = tuple(re.findall(r"%([\w.\-]+)", rest[named.end() : stop]))
    return Instruction(head.lstrip("%"), kind, named[1], names, rest[stop:])


def _results(one: Instruction) -> list[Array]:
    """The arrays that an instruction returns: the tuple of an asynchronous start holds more than that.

    A copy's is (result, operand, context), a collective's (operands, results).
    """
    given = arrays(one.type)
    if one.operation == "copy-start":
        return given[:1]
    if one.operation.endswith("-start") and len(given) > 1:
        given = [a for a in given if a.shape or len(given) == 2]
        return given[len(given) // 2 :]
    return given


def _group(one: Instruction) -> int:
    """How many devices exchange: the groups are {{0,1},{2,3}}, [2,2]<=[4] or axes {'x'} of a mesh."""
    groups = one.attributes.partition("replica_groups=")[2]
    if groups.startswith("{{"):
        return groups[: groups.index("}")].count(",") + 1
    if groups.startswith("mesh["):
        lengths = dict(re.findall(r"'(\w+)'=(\d+)", groups[: groups.index("]")]))
        axes = re.search(r"\{([^}]*)\}", groups)
        return math.prod(
            int(lengths[name]) for name in re.findall(r"'(\w+)'", axes[1] if axes else "")
        )
    shape = re.match(r"\[\d+,(\d+)\]", groups)
    return int(shape[1]) if shape else 1


def _sizes(text: str) -> list[int]:
    """The lengths in {0,1} or ["0","1"]."""
    return [int(n) for n in re.findall(r"\d+", text)]


def _flops(one: Instruction, given: list[Array], made: list[Array]) -> float:
    """Two for each multiplication of a product: a dot, a convolution, or a call of NVIDIA's libraries."""
    target = re.search(r'custom_call_target="(__cu[^"]*)"', one.attributes)
    labels = re.search(r"dim_labels=\w+_(\w+)->", one.attributes)
    if len(given) < 2 or not made:
        return 0.0
    if one.operation == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([^}]*)\}", one.attributes)
        lengths = [given[0].shape[i] for i in _sizes(contracted[1] if contracted else "")]
        return 2.0 * math.prod(made[0].shape) * math.prod(lengths)
    if labels is not None:
        # The data of each kind of call: <g, conv(x, w)> takes |g| |w| / o multiplications.
        kind = target[1] if target else ""
        g, w = made[0], given[1]
        if "BackwardInput" in kind:
            g = given[0]
        elif "BackwardFilter" in kind:
            g, w = given[1], made[0]
        return 2.0 * math.prod(g.shape) * math.prod(w.shape) / w.shape[labels[1].index("o")]
    if target is not None and "__cublas" in target[1]:
        batch = re.search(r'"lhs_batch_dimensions":\[([^\]]*)\]', one.attributes)
        times = math.prod(given[0].shape[i] for i in _sizes(batch[1] if batch else ""))
        return 2.0 * math.sqrt(
            math.prod(given[0].shape) * math.prod(given[1].shape) * math.prod(made[0].shape) / times
        )
    return 0.0


class Program:
    """A compiled program by its computations."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, self.header = "", text.partition("\n")[0]
        current: list[Instruction] = []
        for line in text.splitlines()[1:]:
            opened = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if opened:
                current = self.computations.setdefault(opened[2], [])
                self.entry = opened[2] if opened[1] else self.entry
            elif (found := _instruction(line)) is not None:
                current.append(found)

    def __iter__(self) -> Iterator[tuple[str, Instruction]]:
        for name, instructions in self.computations.items():
            for instruction in instructions:
                yield name, instruction

    @property
    def aliased(self) -> int:
        """How many outputs take the memory of an argument."""
        # {output}: (argument, {its entry, where all arguments are one tuple}
        return len(re.findall(r"\{[\d, ]*\}: \(\d+, \{[\d, ]*\}", self.header))

    def loops(self) -> dict[str, int | None]:
        """{the body of a loop: how often it runs, where that is known}."""
        found: dict[str, int | None] = {}
        for _, one in self:
            if one.operation == "while":
                body = re.search(r"body=%?([\w.\-]+)", one.attributes)
                trips = re.search(r'known_trip_count"?:\{"n":"(\d+)"', one.attributes)
                assert body is not None
                found[body[1]] = int(trips[1]) if trips else None
        return found

    def repeats(self) -> dict[str, tuple[int, bool]]:
        """{computation: (how often it runs, whether in a loop)}; a loop of unknown length counts once."""
        loops, found = self.loops(), {self.entry: (1, False)}
        waiting = [self.entry]
        while waiting:
            name = waiting.pop()
            times, inside = found[name]
            for one in self.computations.get(name, []):
                for called in one.called:
                    if called not in found:
                        trips = loops.get(called) or 1
                        found[called] = times * trips, inside or called in loops
                        waiting.append(called)
        return found

    def communicated(self) -> Iterator[tuple[str, Array, int, bool]]:
        """(kind, array that is gathered or reduced on a device, how often, whether in a loop).

        A TPU's asynchronous operation is listed in the fusion that starts it, in those beside which it
        runs, and in the one that ends it. Its reduce-scatter is a fusion of an all-reduce and a slice.
        """
        for kind, _, array, times, inside in self._sent():
            yield kind, array, times, inside

    def _sent(self) -> Iterator[tuple[str, int, Array, int, bool]]:
        """What `communicated` yields, with the bytes of the whole array after the kind."""
        repeats = self.repeats()
        starts = {name for name, one in self if "AsyncCollectiveStart" in one.attributes}
        for name, one in self:
            kind = one.operation.removesuffix("-start")
            if kind not in KINDS:
                continue
            if "async_collective_fusion_config" in one.attributes and name not in starts:
                continue
            found, whole = _results(one), 1
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind, summed = "reduce-scatter", found[0]
                found = arrays(self.computations[name][-1].type)
                whole = summed.bytes // found[0].bytes
            elif kind == "reduce-scatter":
                whole = _group(one)
            for array in found:
                yield kind, whole * array.bytes, array, *repeats.get(name, (1, False))

    def on_links(self) -> int:
        """Bytes that a ring sends from each device: an array twice for an all-reduce, else once."""
        return sum(
            size * times * (2 if kind == "all-reduce" else 1)
            for kind, size, _, times, _ in self._sent()
        )

    def collectives(self) -> Counter[tuple[str, str, bool]]:
        """{(kind, type, whether in a loop): bytes that are gathered or reduced on a device}."""
        found: Counter[tuple[str, str, bool]] = Counter()
        for kind, array, times, inside in self.communicated():
            found[kind, array.dtype, inside] += times * array.bytes
        return found

    def products(self) -> dict[str, Counter[str]]:
        """{type that is multiplied: {the operation of the network: how many products}}."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for instructions in self.computations.values():
            types = {one.name: one.type for one in instructions}
            for one in instructions:
                library = one.operation == "custom-call" and re.search(
                    r'custom_call_target="__(?:cudnn|cublas)', one.attributes
                )
                if one.operation not in ("convolution", "dot") and not library:
                    continue
                given = [a for name in one.operands for a in arrays(types.get(name, ""))]
                floats = [a.dtype for a in given if a.dtype[0] in "bf"] or ["?"]
                widest = max(floats, key=lambda name: (name[0] == "f", name))
                found[widest][one.source] += 1
        return found

    def _multiplied(self) -> Iterator[tuple[Instruction, list[Array], float]]:
        """(product, its operands, its FLOP with loops as often as they run)."""
        repeats = self.repeats()
        for name, instructions in self.computations.items():
            types = {one.name: one.type for one in instructions}
            for one in instructions:
                if one.operation in ("dot", "convolution", "custom-call"):
                    given = [a for n in one.operands for a in arrays(types.get(n, ""))]
                    times = repeats.get(name, (1, False))[0]
                    yield one, given, times * _flops(one, given, arrays(one.type))

    def flops(self) -> float:
        """FLOP of its products, with loops as often as they run."""
        return sum(flops for _, _, flops in self._multiplied())

    def passes(self) -> float:
        """How often a TPU multiplies in bfloat16 for a product, on average over the FLOP.

        Once for bfloat16 and for float32 at the default precision, three times at "high" and six times at
        "highest", which the text states for each product.
        """
        total = weighed = 0.0
        for one, given, flops in self._multiplied():
            asked = re.search(r"operand_precision=\{(\w+)", one.attributes)
            wide = any(a.dtype == "f32" for a in given)
            total += flops
            weighed += flops * (PASSES.get(asked[1], 1) if asked and wide else 1)
        return weighed / total if total else 1.0

    def moved(self) -> Counter[str]:
        """{operation: bytes read from and written to main memory}, with loops as often as they run."""
        repeats = self.repeats()
        fused = {c for _, one in self if one.operation != "while" for c in one.called}
        found: Counter[str] = Counter()
        for name, instructions in self.computations.items():
            if name not in repeats or name in fused:
                continue
            times = repeats[name][0]
            types = {one.name: one.type for one in instructions}
            for one in instructions:
                # A "done" waits for what its "start" moves.
                if one.operation in _FREE or one.operation.endswith(("-done", "-update")):
                    continue
                read = [a for n in set(one.operands) for a in arrays(types.get(n, ""))]
                written = arrays(one.type)
                if one.operation.endswith("-start"):
                    written = _results(one)
                size = sum(a.bytes for a in written if not a.on_chip)
                if "slice" in one.operation and "update" not in one.operation:
                    # Of the operand only the slice is read.
                    size += sum(a.bytes for a in written) if any(not a.on_chip for a in read) else 0
                else:
                    size += sum(a.bytes for a in read if not a.on_chip)
                found[one.operation] += times * size
        return found
