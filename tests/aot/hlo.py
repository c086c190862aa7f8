"""Reading optimised HLO: what a compiled program does, without running it.

Bytes, launches and cycles are those of one training step: inner loops are multiplied by their trip
counts, the loop over the steps of a call has none and counts once. What surrounds that loop, once a
call of 256 steps, counts as well; :attr:`Kernel.in_loop` tells the two apart.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re

_INSTRUCTION = re.compile(r"^\s*(ROOT )?%([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_SHAPE = re.compile(r"\b(pred|[su](?:8|16|32|64)|bf16|f16|f32|f64|f8\w*)\[([\d,]*)\]")
_SIZES = {"pred": 1, "bf16": 2}
# Windows of the networks' kernels are at most 5 pixels wide.
GIANT = 16


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: its name, result type, operation, operands, and the text they come from."""

    name: str
    is_root: bool
    text: str

    @functools.cached_property
    def type(self) -> str:
        if not self.text.startswith("("):
            return self.text.split(" ", 1)[0]
        return self.text[: _closing(self.text, 0) + 1]

    @functools.cached_property
    def opcode(self) -> str:
        return self.text[len(self.type) :].lstrip().split("(", 1)[0]

    @functools.cached_property
    def operands(self) -> list[str]:
        start = self.text.find("(", len(self.type))
        if start < 0:
            return []
        return re.findall(r"%([\w.\-]+)", self.text[start : _closing(self.text, start)])

    @functools.cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(map(int, dims.split(","))) for _, dims in _SHAPE.findall(self.type) if dims]

    @property
    def nbytes(self) -> int:
        return nbytes(self.type)

    def attribute(self, pattern: str) -> str | None:
        found = re.search(pattern, self.text)
        return found.group(1) if found else None

    @property
    def window(self) -> int:
        """The convolution's window, rows."""
        return int(self.attribute(r"window=\{size=(\d+)") or 1)


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def nbytes(shapes: str) -> int:
    """Bytes of all arrays in the text of a type."""
    total = 0
    for kind, dims in _SHAPE.findall(shapes):
        bits = re.search(r"\d+", kind)
        size = _SIZES.get(kind) or int(bits.group()) // 8
        total += size * math.prod(int(d) for d in dims.split(",") if d)
    return total


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One launch: how often a step runs it, the bytes it moves, the operations of a convolution.

    ``in_loop``: it is part of a loop, and so of a step.
    """

    kind: str
    times: int
    nbytes: int
    flops: int
    instruction: Instruction
    in_loop: bool


class Program:
    """The computations of an optimised HLO module."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if not line.startswith(" ") and (head := _COMPUTATION.match(line)):
                current = self.computations.setdefault(head.group(2), {})
                self.entry = head.group(2) if head.group(1) else self.entry
            elif found := _INSTRUCTION.match(line):
                root, name, rest = found.groups()
                current[name] = Instruction(name, bool(root), rest)

    @functools.cached_property
    def instructions(self) -> list[Instruction]:
        return [i for rows in self.computations.values() for i in rows.values()]

    def count(self, *opcodes: str) -> int:
        return sum(i.opcode in opcodes for i in self.instructions)

    # ---- convolutions ----------------------------------------------------------------------------

    @property
    def cudnn(self) -> collections.Counter:
        """Calls of cuDNN's convolutions by kind: Forward, BackwardInput, BackwardFilter, …"""
        return collections.Counter(
            kind for i in self.instructions if (kind := i.attribute(r'"__cudnn\$conv(\w+)"'))
        )

    @property
    def giant_windows(self) -> list[str]:
        """cuDNN calls whose window is an image: weight gradients that XLA:GPU didn't recognise."""
        return [
            i.attribute(r'op_name="([^"]*)"') or i.name
            for i in self.instructions
            if "cudnn$conv" in i.text and i.window > GIANT
        ]

    # ---- loops -----------------------------------------------------------------------------------

    def walk(self, computation: str | None = None, times: int = 1, in_loop: bool = False):
        """(its computation, instruction, times a step, whether in a loop) of all that runs."""
        for i in self.computations[computation or self.entry].values():
            yield computation or self.entry, i, times, in_loop
            if i.opcode == "while":
                trips = i.attribute(r'"known_trip_count":\{"n":"(\d+)"') or self._trips(i)
                yield from self.walk(i.attribute(r"body=%([\w.\-]+)"), times * int(trips), True)
            elif i.opcode in ("call", "async-start") and i.attribute(r"to_apply=%([\w.\-]+)"):
                yield from self.walk(i.attribute(r"to_apply=%([\w.\-]+)"), times, in_loop)
            elif i.opcode == "conditional":
                for name in re.findall(
                    r"%([\w.\-]+)", i.attribute(r"computations=\{([^}]*)") or ""
                ):
                    yield from self.walk(name, times, in_loop)

    def _trips(self, loop: Instruction) -> int:
        """The constant that the condition compares with; 1 where it comes from outside."""
        found, todo = [], [loop.attribute(r"condition=%([\w.\-]+)")]
        while todo:
            for i in self.computations[todo.pop()].values():
                found += [int(n) for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", i.text)]
                todo += re.findall(r"calls=%([\w.\-]+)", i.text)
        return max(found, default=1)

    def inside_loops(self) -> list[Instruction]:
        """All that runs inside a loop: of a training, its steps."""
        bodies = [
            i.attribute(r"body=%([\w.\-]+)") for i in self.instructions if i.opcode == "while"
        ]
        return [i for body in bodies for _, i, *_ in self.walk(body)]

    @property
    def cycles(self) -> int:
        """A TPU program's own estimate of its cycles."""
        cycles = (
            times * int(i.attribute(r'"estimated_cycles":"(\d+)"') or 0)
            for _, i, times, _ in self.walk()
        )
        return sum(cycles)

    # ---- memory traffic of a GPU program ---------------------------------------------------------

    def kernels(self) -> list[Kernel]:
        """What a GPU launches, with the bytes that each kernel must at least read and write."""
        found = []
        for computation, i, times, in_loop in self.walk():
            rows = self.computations[computation]

            def add(kind, moved, flops, times=times, i=i, in_loop=in_loop):
                found.append(Kernel(kind, times, moved, flops, i, in_loop))

            if i.opcode in ("fusion", "fusion-start"):
                called = i.attribute(r"calls=%([\w.\-]+)")
                add("fusion", self._fusion_bytes(called), 0)
            elif i.opcode == "copy":
                add("copy", 2 * i.nbytes, 0)
            elif i.opcode == "custom-call" and "cudnn$" in i.text:
                kind = i.attribute(r'"__cudnn\$(\w+)"')
                # The last result is cuDNN's workspace.
                moved = nbytes(i.type.rsplit(", u8", 1)[0])
                moved += sum(rows[o].nbytes for o in i.operands if o in rows)
                add(kind, moved, _flops(kind, i, rows))
            elif i.opcode == "custom-call" and "triton" in i.text:
                # A Pallas kernel; every operand is read once.
                add("triton", i.nbytes + sum(rows[o].nbytes for o in i.operands if o in rows), 0)
        return found

    def _fusion_bytes(self, computation: str) -> int:
        rows = self.computations[computation]
        users = collections.defaultdict(list)
        for i in rows.values():
            for operand in i.operands:
                users[operand].append(i)

        def uses(name):
            for user in users[name]:
                if user.opcode in ("bitcast", "reshape"):
                    yield from uses(user.name)
                else:
                    yield user, name

        def read(parameter):
            part = 0
            for user, via in uses(parameter.name):
                if user.opcode in ("dynamic-slice", "slice", "gather"):
                    part += user.nbytes
                elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == via):
                    return parameter.nbytes
            return min(part, parameter.nbytes)

        def written(i):
            if i.opcode == "tuple":
                return sum(written(rows[o]) for o in i.operands)
            if i.opcode == "bitcast" and i.operands[0] in rows:
                return written(rows[i.operands[0]])
            if i.opcode == "dynamic-update-slice":
                return rows[i.operands[1]].nbytes
            return i.nbytes

        root = next(i for i in rows.values() if i.is_root)
        return written(root) + sum(read(i) for i in rows.values() if i.opcode == "parameter")


def _flops(kind: str, call: Instruction, rows) -> int:
    left, right = (rows[o].shapes[0] for o in call.operands[:2])
    result = call.shapes[0]
    if kind == "convBackwardFilter":
        return 2 * math.prod(right) * math.prod(result) // result[0]
    if kind == "convBackwardInput":
        return 2 * math.prod(left) * math.prod(right) // right[0]
    return 2 * math.prod(result) * math.prod(right) // right[0]


def roofline_s(kernels: list[Kernel], bytes_per_s: float, flops_per_s: float) -> float:
    """Seconds that the kernels need at least, one after the other."""
    return sum(k.times * max(k.nbytes / bytes_per_s, k.flops / flops_per_s) for k in kernels)
