"""PTX instructions as C++ statements, one rule an operation.

A rule names every suffix that it understands; another one, such as a rounding or a saturation, is an error.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

C_TYPES = {
    "b8": "uint8_t", "u8": "uint8_t", "s8": "int8_t",
    "b16": "uint16_t", "u16": "uint16_t", "s16": "int16_t", "f16": "uint16_t",
    "b32": "uint32_t", "u32": "uint32_t", "s32": "int32_t", "f32": "float",
    "b64": "uint64_t", "u64": "uint64_t", "s64": "int64_t", "f64": "double",
    "pred": "bool",
}  # fmt: skip
SIZES = {name: 1 if name == "pred" else int(name[1:]) // 8 for name in C_TYPES}
SPECIAL = {"%tid.x": "t.tid_x", "%ctaid.x": "t.ctaid_x", "%ntid.x": "t.ntid_x", "%nctaid.x": "t.nctaid_x"}
WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}
COMPARISONS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
}  # fmt: skip


class UnknownPtxError(Exception):
    """PTX that the translation does not know."""


@dataclass
class Kernel:
    """A kernel while it is translated."""

    name: str
    parameters: list[tuple[str, int, int]] = field(default_factory=list)  # name, size, alignment
    registers: dict[str, str] = field(default_factory=dict)  # prefix to PTX type
    declared: list[str] = field(default_factory=list)
    symbols: dict[str, int] = field(default_factory=dict)  # shared variables and parameters to offsets
    shared_bytes: int = 0
    shared_variables: list[tuple[int, int]] = field(default_factory=list)  # begin and end
    lines: list[str] = field(default_factory=list)

    def parameter_offsets(self) -> list[int]:
        """Offset of each parameter, and the size of them all."""
        offsets, end = [], 0
        for _, size, alignment in self.parameters:
            end = -(-end // alignment) * alignment
            offsets.append(end)
            end += size
        return [*offsets, end]


def label_of(name: str) -> str:
    return "L" + re.sub(r"\W", "_", name)


class Instruction:
    """One instruction: guard, operation with its suffixes, operands."""

    def __init__(self, kernel: Kernel, text: str, number: int) -> None:
        self.kernel = kernel
        self.text = text
        self.number = number
        match = re.fullmatch(r"(?:@(!?)%(p\d+) )?([a-z][\w.:]*)(?: (.*))?", text)
        if not match:
            raise UnknownPtxError(text)
        self.guard = f"if ({match[1]}{match[2]}) " if match[2] else ""
        self.name, *self.suffixes = match[3].replace("::", ":").split(".")
        # Commas between operands, not those within {vectors}.
        self.operands = [each.strip() for each in re.split(r",(?![^{]*\})", match[4] or "")]
        self.types = [suffix for suffix in self.suffixes if suffix in C_TYPES]

    def translated(self) -> str:
        """The statement in C++."""
        rule: Callable[[], str] | None = getattr(self, f"_do_{self.name}", None)
        if rule is None:
            raise self.unknown()
        return f"{self.guard}{{ {rule()} }}"

    def unknown(self) -> UnknownPtxError:
        return UnknownPtxError(f"{self.kernel.name}: {self.text}")

    def has(self, *suffixes: str) -> bool:
        return all(suffix in self.suffixes for suffix in suffixes)

    def only(self, *suffixes: str) -> None:
        """Refuse suffixes other than types and these: rounding, saturation and scopes must never be lost."""
        if set(self.suffixes) - set(suffixes) - set(C_TYPES):
            raise self.unknown()

    # Operands.

    def kind_of(self, register: str) -> str:
        match = re.fullmatch(r"%([a-z]+)\d+", register)
        if not match or match[1] not in self.kernel.registers:
            raise self.unknown()
        return self.kernel.registers[match[1]]

    def value(self, operand: str, kind: str) -> str:
        """An operand read as a type."""
        c_type = C_TYPES[kind]
        if operand in SPECIAL:
            return f"({c_type})({SPECIAL[operand]})"
        if operand.startswith("%"):
            held, name = self.kind_of(operand), operand[1:]
            if held.startswith("f") != kind.startswith("f") or (kind == "f16"):
                return (
                    f"bits<{c_type}>({name})"
                    if SIZES[held] == SIZES[kind] and kind != "f16"
                    else f"({c_type}){name}"
                )
            return name if held == kind else f"({c_type}){name}"
        real = re.fullmatch(r"0([fd])([0-9A-Fa-f]+)", operand)
        if real and kind in {"f32", "f64"}:
            word = "uint32_t" if real[1] == "f" else "uint64_t"
            return (
                f"bits<{c_type}>({word}{{0x{real[2]}u}})"
                if real[1] == "f"
                else f"bits<{c_type}>({word}{{0x{real[2]}ull}})"
            )
        if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)U?", operand) and not kind.startswith("f"):
            number = int(operand.rstrip("U"), 0) % (1 << 64)
            return f"({c_type})0x{number:x}ull"
        if operand in self.kernel.symbols:
            return f"({c_type}){self.kernel.symbols[operand]}u"
        raise self.unknown()

    def assign(self, target: str, expression: str, kind: str) -> str:
        """A register takes a value of a type: sign or zero extended where the register is wider."""
        if target == "_":
            return f"(void)({expression});"
        held, name = self.kind_of(target), target[1:]
        if held == "pred" or kind == "pred":
            if held != kind:
                raise self.unknown()
            return f"{name} = {expression};"
        if held.startswith("f") != kind.startswith("f"):
            return f"{name} = bits<{C_TYPES[held]}>(({C_TYPES[kind]})({expression}));"
        if SIZES[kind] > SIZES[held]:
            raise self.unknown()
        return f"{name} = ({C_TYPES[held]})({C_TYPES[kind]})({expression});"

    def address(self, operand: str) -> str:
        match = re.fullmatch(r"\[([%\w$]+)(?:\+(-?\d+))?\]", operand)
        if not match:
            raise self.unknown()
        base = match[1]
        kind = self.kind_of(base) if base.startswith("%") else "u64"
        return f"({self.value(base, kind)} + (int64_t){match[2] or 0})"

    def vector(self, operand: str) -> list[str]:
        return [each.strip() for each in operand.strip("{}").split(",")]

    def binary(self, expression: str, *allowed: str) -> str:
        self.only(*allowed)
        (kind,) = self.types
        a, b = (self.value(each, kind) for each in self.operands[1:3])
        return self.assign(self.operands[0], expression.format(a=a, b=b, T=C_TYPES[kind]), kind)

    def unsigned(self) -> str:
        """Integer arithmetic wraps: computed unsigned, also for signed types."""
        (kind,) = self.types
        return kind if kind.startswith("f") else "u" + kind[1:]

    def wrapping(self, operator: str) -> str:
        kind = self.unsigned()
        self.only(*(["rn"] if kind.startswith("f") else []))
        if kind.startswith("f") and not self.has("rn") and self.name != "neg":
            raise self.unknown()
        a, b = (self.value(each, kind) for each in self.operands[1:3])
        return self.assign(self.operands[0], f"{a} {operator} {b}", kind)

    # Arithmetic.

    def _do_add(self) -> str:
        return self.wrapping("+")

    def _do_sub(self) -> str:
        return self.wrapping("-")

    def _do_mul(self) -> str:
        (kind,) = self.types
        if kind.startswith("f"):
            return self.wrapping("*")
        a, b = self.operands[1:3]
        if self.has("wide"):
            self.only("wide")
            wide = WIDER[kind]
            product = f"({C_TYPES[wide]}){self.value(a, kind)} * ({C_TYPES[wide]}){self.value(b, kind)}"
            return self.assign(self.operands[0], product, wide)
        if self.has("hi"):
            self.only("hi")
            wide = "__int128" if kind[0] == "s" else "unsigned __int128"
            product = f"({wide}){self.value(a, kind)} * ({wide}){self.value(b, kind)} >> {8 * SIZES[kind]}"
            return self.assign(self.operands[0], product, kind)
        self.only("lo")
        word = self.unsigned()
        return self.assign(self.operands[0], f"{self.value(a, word)} * {self.value(b, word)}", word)

    def _do_mad(self) -> str:
        self.only("lo")
        word = self.unsigned()
        a, b, c = (self.value(each, word) for each in self.operands[1:4])
        return self.assign(self.operands[0], f"{a} * {b} + {c}", word)

    def _do_fma(self) -> str:
        self.only("rn")
        (kind,) = self.types
        a, b, c = (self.value(each, kind) for each in self.operands[1:4])
        return self.assign(self.operands[0], f"{'fma' if kind == 'f64' else 'fmaf'}({a}, {b}, {c})", kind)

    def _do_div(self) -> str:
        (kind,) = self.types
        if kind.startswith("f") and not self.has("rn"):
            raise self.unknown()
        return self.binary("{a} / {b}", "rn")

    def _do_rem(self) -> str:
        return self.binary("{a} % {b}")

    def _do_sqrt(self) -> str:
        self.only("rn")
        if self.types != ["f64"] or not self.has("rn"):
            raise self.unknown()
        return self.assign(self.operands[0], f"sqrt({self.value(self.operands[1], 'f64')})", "f64")

    def _do_abs(self) -> str:
        self.only()
        (kind,) = self.types
        function = {"f32": "fabsf", "f64": "fabs"}.get(kind)
        if function is None:
            raise self.unknown()
        return self.assign(self.operands[0], f"{function}({self.value(self.operands[1], kind)})", kind)

    def _do_neg(self) -> str:
        self.only()
        kind = self.unsigned()
        return self.assign(self.operands[0], f"-{self.value(self.operands[1], kind)}", kind)

    def _do_min(self) -> str:
        return self.binary("fmin({a}, {b})" if self.types == ["f64"] else "{a} < {b} ? {a} : {b}")

    def _do_max(self) -> str:
        return self.binary("fmax({a}, {b})" if self.types == ["f64"] else "{a} > {b} ? {a} : {b}")

    # Bits.

    def _do_and(self) -> str:
        return self.binary("{a} & {b}")

    def _do_or(self) -> str:
        return self.binary("{a} | {b}")

    def _do_xor(self) -> str:
        return self.binary("{a} ^ {b}")

    def _do_not(self) -> str:
        self.only()
        (kind,) = self.types
        return self.assign(
            self.operands[0], f"{'!' if kind == 'pred' else '~'}{self.value(self.operands[1], kind)}", kind
        )

    def _do_shl(self) -> str:
        self.only()
        (kind,) = self.types
        a, by = self.value(self.operands[1], kind), self.value(self.operands[2], "u32")
        return self.assign(self.operands[0], f"shift_left<{C_TYPES[kind]}>({a}, {by})", kind)

    def _do_shr(self) -> str:
        self.only()
        (kind,) = self.types
        a, by = self.value(self.operands[1], kind), self.value(self.operands[2], "u32")
        return self.assign(self.operands[0], f"shift_right<{C_TYPES[kind]}>({a}, {by})", kind)

    def _do_shf(self) -> str:
        self.only("l", "r", "wrap")
        if not self.has("wrap"):
            raise self.unknown()
        a, b, c = (self.value(each, "u32") for each in self.operands[1:4])
        function = "funnel_left" if self.has("l") else "funnel_right"
        return self.assign(self.operands[0], f"{function}({a}, {b}, {c})", "u32")

    def _do_brev(self) -> str:
        self.only()
        return self.assign(self.operands[0], f"reversed_bits({self.value(self.operands[1], 'u32')})", "u32")

    def _do_bfind(self) -> str:
        self.only("shiftamt")
        if not self.has("shiftamt") or self.types != ["u32"]:
            raise self.unknown()
        return self.assign(self.operands[0], f"find_shift({self.value(self.operands[1], 'u32')})", "u32")

    def _do_prmt(self) -> str:
        self.only()
        a, b, c = (self.value(each, "u32") for each in self.operands[1:4])
        return self.assign(self.operands[0], f"permuted({a}, {b}, {c})", "u32")

    def _do_lop3(self) -> str:
        self.only()
        a, b, c, table = (self.value(each, "u32") for each in self.operands[1:5])
        return self.assign(self.operands[0], f"any_logic({a}, {b}, {c}, {table})", "u32")

    # Choices.

    def _do_setp(self) -> str:
        comparison, *rest = self.suffixes
        (kind,) = self.types
        combining = [suffix for suffix in rest if suffix in {"and", "or", "xor"}]
        self.only(comparison, *combining)
        a, b = (self.value(each, kind) for each in self.operands[1:3])
        if comparison in COMPARISONS:
            # On floats PTX's ordered comparisons are false for NaN; C's `!=` is true, so `ne` is spelled out.
            test = f"{a} {COMPARISONS[comparison]} {b}"
            if kind.startswith("f") and comparison == "ne":
                test = f"({a} < {b} || {a} > {b})"
        elif kind.startswith("f") and comparison.endswith("u") and comparison[:-1] in COMPARISONS:
            test = f"(isnan({a}) || isnan({b}) || {a} {COMPARISONS[comparison[:-1]]} {b})"
        else:
            raise self.unknown()
        if combining:
            word = {"and": "&", "or": "|", "xor": "^"}[combining[0]]
            test = f"({test}) {word} {self.value(self.operands[3], 'pred')}"
        return self.assign(self.operands[0], test, "pred")

    def _do_selp(self) -> str:
        self.only()
        (kind,) = self.types
        a, b = (self.value(each, kind) for each in self.operands[1:3])
        return self.assign(self.operands[0], f"{self.value(self.operands[3], 'pred')} ? {a} : {b}", kind)

    def _do_mov(self) -> str:
        self.only()
        (kind,) = self.types
        target, source = self.operands
        if target.startswith("{"):
            half = f"u{4 * SIZES[kind]}"
            parts = self.vector(target)
            whole = self.value(source, "u" + kind[1:])
            first, second = f"{whole}", f"{whole} >> {4 * SIZES[kind]}"
            return f"{self.assign(parts[0], first, half)} {self.assign(parts[1], second, half)}"
        if source.startswith("{"):
            low, high = (self.value(each, f"u{4 * SIZES[kind]}") for each in self.vector(source))
            word = C_TYPES["u" + kind[1:]]
            return self.assign(target, f"({word}){high} << {4 * SIZES[kind]} | {low}", "u" + kind[1:])
        return self.assign(target, self.value(source, kind), kind)

    def _do_cvt(self) -> str:
        to, source = self.types
        value = self.value(self.operands[1], source)
        if source == "f16":
            self.only()
            if to != "f32":
                raise self.unknown()
            return self.assign(self.operands[0], f"half_to_float({value})", to)
        if source.startswith("f") and not to.startswith("f"):
            self.only("rzi")
            if (to, source) != ("s64", "f64") or not self.has("rzi"):
                raise self.unknown()
            return self.assign(self.operands[0], f"truncated({value})", to)
        # Rounding to nearest is C's; widening needs none.
        exact = SIZES[to] > SIZES[source] and to.startswith("f") == source.startswith("f")
        self.only(*([] if exact or not to.startswith("f") else ["rn"]))
        if to.startswith("f") and not exact and not self.has("rn"):
            raise self.unknown()
        return self.assign(self.operands[0], f"({C_TYPES[to]})({value})", to)

    def _do_cvta(self) -> str:
        self.only("to", "global")
        if not self.has("to", "global"):
            raise self.unknown()
        return self.assign(self.operands[0], self.value(self.operands[1], "u64"), "u64")

    # Memory.

    def width(self) -> int:
        return next((int(suffix[1:]) for suffix in self.suffixes if suffix in {"v2", "v4"}), 1)

    def pointer(self, operand: str, count: int, access: str) -> str:
        (kind,) = self.types
        size = SIZES[kind] * count
        if self.has("global"):
            return f"global<{size}>(t, {self.address(operand)}, Access::{access})"
        if self.has("shared"):
            return f"shared<{size}>(t, (uint32_t){self.address(operand)}, Access::{access})"
        if self.has("param") and access == "kRead":
            return f"(void*)(t.parameters + {self.address(operand)})"
        raise self.unknown()

    def _do_ld(self) -> str:
        self.only("global", "shared", "param", "nc", "v2", "v4")
        (kind,) = self.types
        targets = self.vector(self.operands[0]) if self.width() > 1 else [self.operands[0]]
        pointer = self.pointer(self.operands[1], self.width(), "kRead")
        c_type = C_TYPES[kind]
        parts = [
            self.assign(target, f"load<{c_type}>((const {c_type}*)from + {place})", kind)
            for place, target in enumerate(targets)
        ]
        return f"const void* from = {pointer}; {' '.join(parts)}"

    def _do_st(self) -> str:
        self.only("global", "shared", "v2", "v4", "cs")
        (kind,) = self.types
        sources = self.vector(self.operands[1]) if self.width() > 1 else [self.operands[1]]
        pointer = self.pointer(self.operands[0], self.width(), "kWrite")
        c_type = C_TYPES[kind]
        parts = [
            f"store<{c_type}>(({c_type}*)to + {place}, {self.value(source, kind)});"
            for place, source in enumerate(sources)
        ]
        return f"void* to = {pointer}; {' '.join(parts)}"

    def _do_atom(self) -> str:
        self.only("shared", "global", "add")
        if not self.has("add") or self.types != ["u32"]:
            raise self.unknown()
        pointer = self.pointer(self.operands[1], 1, "kAtomic")
        call = f"atomic_add(t, {pointer}, {self.value(self.operands[2], 'u32')})"
        return f"const uint32_t old = {call}; {self.assign(self.operands[0], 'old', 'u32')}"

    # Threads and flow.

    def _do_bar(self) -> str:
        self.only("sync", "warp")
        if self.has("warp", "sync"):
            return f"warp_barrier(t, {self.value(self.operands[0], 'u32')}, {self.number});"
        if self.operands != ["0"]:
            raise self.unknown()
        return f"barrier(t, {self.number});"

    def _do_membar(self) -> str:
        self.only("gl")
        if not self.has("gl"):
            raise self.unknown()
        return "fence(t);"

    def _do_shfl(self) -> str:
        self.only("sync", "up", "down", "bfly", "idx")
        (mode,) = set(self.suffixes) & {"up", "down", "bfly", "idx"}
        target, _, valid = self.operands[0].partition("|")
        value, distance, clamp, mask = (self.value(each, "u32") for each in self.operands[1:5])
        letter = {"up": "u", "down": "d", "bfly": "b", "idx": "i"}[mode]
        call = f"shuffle(t, '{letter}', {value}, {distance}, {clamp}, {mask}, {self.number}, &inside)"
        known = self.assign(valid, "inside", "pred") if valid else ""
        return f"bool inside; const uint32_t got = {call}; {self.assign(target, 'got', 'u32')} {known}"

    def _do_bra(self) -> str:
        self.only("uni")
        return f"goto {label_of(self.operands[0])};"

    def _do_ret(self) -> str:
        self.only()
        return "return;"
