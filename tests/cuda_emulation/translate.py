"""Turns nvcc's PTX into C++ for the emulated device: one function a kernel, one statement an instruction.

Only what the project's kernels use is known. Anything else is an error: an instruction that is skipped, or
guessed at, would prove nothing. PTX is described in NVIDIA's "Parallel Thread Execution ISA".
"""

import re
import sys
from pathlib import Path

from instructions import C_TYPES, SIZES, Instruction, Kernel, UnknownPtxError, label_of

SHARED_GAP = 64  # bytes between two variables in shared memory, which no kernel may touch


def translate(ptx: str, only: str = "") -> str:
    """C++ for every kernel of a PTX module whose name matches."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", ptx, flags=re.DOTALL)
    kernels = []
    pattern = re.compile(r"\.visible\s+\.entry\s+(\w+)\s*\((.*?)\)([^{]*)\{", re.DOTALL)
    end = 0
    for match in pattern.finditer(text):
        _check_outside(text[end : match.start()])
        body, end = _body(text, match.end())
        if re.search(only, match[1]):
            kernels.append(_kernel(match[1], match[2], match[3], body))
    _check_outside(text[end:])
    if not kernels:
        raise UnknownPtxError("no kernel in this PTX")
    return _source(kernels)


def _check_outside(text: str) -> None:
    """Between kernels stand only the module's own lines."""
    rest = re.sub(r"\.(version|target|address_size)[^\n]*|\.(extern|weak)\s+\.func.*", "", text)
    if rest.strip():
        raise UnknownPtxError(f"outside of kernels: {rest.strip()[:200]!r}")


def _body(text: str, start: int) -> tuple[str, int]:
    depth, place = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        place += 1
    return text[start : place - 1], place


def _kernel(name: str, parameters: str, directives: str, body: str) -> Kernel:
    if re.sub(r"\.(maxntid|minnctapersm|reqntid)[\s\d,]*", "", directives).strip():
        raise UnknownPtxError(f"directives of {name}: {directives.strip()!r}")
    kernel = Kernel(name)
    for parameter in filter(None, map(str.strip, parameters.split(","))):
        array = re.fullmatch(r"\.param \.align (\d+) \.b8 (\w+)\[(\d+)\]", parameter)
        scalar = re.fullmatch(r"\.param \.(\w+)(?: \.ptr(?: \.global)? \.align \d+)? (\w+)", parameter)
        if array:
            kernel.parameters.append((array[2], int(array[3]), int(array[1])))
        elif scalar:
            kernel.parameters.append((scalar[2], SIZES[scalar[1]], SIZES[scalar[1]]))
        else:
            raise UnknownPtxError(f"parameter {parameter!r}")
    kernel.symbols = {
        each[0]: offset for each, offset in zip(kernel.parameters, kernel.parameter_offsets(), strict=False)
    }
    for number, statement in enumerate(_statements(body)):
        _statement(kernel, statement, number)
    return kernel


def _statements(body: str) -> list[str]:
    """Statements and labels. Inline assembly stands in braces of its own; vectors keep theirs."""
    # Half of a register is thrown away in a scope of its own: here into `_`, which is PTX for nowhere.
    scoped = r"\{\s*\.reg \.b(?:16|32) (\w+);\s*(mov\.b(?:32|64)\s+\{)([^}]*)(\},\s*%\w+;)\s*\}"
    body = re.sub(scoped, lambda it: it[2] + re.sub(rf"\b{it[1]}\b", "_", it[3]) + it[4], body)
    body = re.sub(r"^\s*\{(?=\s*\w)", "", body, flags=re.MULTILINE)
    body = re.sub(r";\s*\}", ";", body)
    body = re.sub(r"^\s*(\$?\w+):", r"\1: ;", body, flags=re.MULTILINE)
    return [" ".join(statement.split()) for statement in body.split(";") if statement.strip(" \n\t{}")]


def _statement(kernel: Kernel, statement: str, number: int) -> None:
    if statement.endswith(":"):
        kernel.lines.append(f"{label_of(statement[:-1])}:;")
    elif statement.startswith(".reg"):
        _declare(kernel, statement)
    elif statement.startswith(".shared"):
        variable = re.fullmatch(r"\.shared \.align (\d+) \.(\w+) (\w+)(?:\[(\d+)\])?", statement)
        if not variable or variable[2] not in SIZES:
            raise UnknownPtxError(statement)
        alignment, size = int(variable[1]), SIZES[variable[2]] * int(variable[4] or 1)
        gap = SHARED_GAP if kernel.shared_variables else 0
        offset = -(-(kernel.shared_bytes + gap) // alignment) * alignment
        kernel.symbols[variable[3]] = offset
        kernel.shared_bytes = offset + size
        kernel.shared_variables.append((offset, kernel.shared_bytes))
    elif statement.startswith(".pragma"):
        pass
    else:
        kernel.lines.append(Instruction(kernel, statement, number).translated())


def _declare(kernel: Kernel, statement: str) -> None:
    match = re.fullmatch(r"\.reg \.(\w+) %(\w+?)<(\d+)>", statement)
    if not match:
        raise UnknownPtxError(statement)
    kind, prefix, count = match[1], match[2], int(match[3])
    kernel.registers[prefix] = kind
    kernel.declared += [f"{C_TYPES[kind]} {prefix}{place} = 0;" for place in range(count)]


def _source(kernels: list[Kernel]) -> str:
    parts = ['#include "access.h"\n\nusing namespace emulation;\n']
    for place, kernel in enumerate(kernels):
        offsets = ", ".join(map(str, kernel.parameter_offsets()))
        parts.append(f"static const uint32_t offsets_{place}[] = {{{offsets}}};")
        variables = ", ".join(f"{{{begin}, {end}}}" for begin, end in kernel.shared_variables or [(0, 0)])
        parts.append(f"static const SharedVariable variables_{place}[] = {{{variables}}};")
        declared = "\n  ".join(kernel.declared)
        lines = "\n  ".join(kernel.lines)
        parts.append(f"static void run_{kernel.name}(Thread& t) {{\n  {declared}\n  {lines}\n  return;\n}}\n")
    rows = ",\n".join(
        f'    {{"{kernel.name}", run_{kernel.name}, {kernel.shared_bytes}, {len(kernel.shared_variables)}, '
        f"variables_{place}, {len(kernel.parameters)}, offsets_{place}}}"
        for place, kernel in enumerate(kernels)
    )
    parts.append(f"const Translated emulation::kKernels[] = {{\n{rows}}};")
    parts.append(f"const int emulation::kKernelCount = {len(kernels)};")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(translate(Path(sys.argv[1]).read_text(), *sys.argv[3:]))
