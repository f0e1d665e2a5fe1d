#!/usr/bin/env python3
"""Writes src/startup-order.txt: the functions that a gateway runs while it starts, idles and ends.

    startup_order.py ENTENTE BENCH

ENTENTE is the binary of profile `dist` with its symbols, BENCH the benchmarks' binary, whose part `idle` it runs under
valgrind's callgrind. `make startup-order` builds both. Functions whose instances mostly run come first.
"""

import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ORDER = pathlib.Path(__file__).parents[2] / "src" / "startup-order.txt"
HEAD = "# Functions that run when a gateway starts: mangled names without hashes. `make startup-order` writes this.\n"


def without_hash(name: str) -> str:
    """Compilers and versions differ in the hash at the end of a name, those of std in that of a crate's name."""
    return re.sub(r"Cs[0-9A-Za-z]{6,}_", "Cs*_", re.sub(r"17h[0-9a-f]{16}E.*$", "17h", name))


def executed(callgrind: pathlib.Path, program: str) -> list[str]:
    """The functions of `program` that ran, each once. Names are written out at their first mention only."""
    objects: dict[str, str] = {}
    functions: dict[str, str] = {}
    current, ran = "", {}
    for line in callgrind.read_text(errors="replace").splitlines():
        match = re.match(r"(c?)(ob|fn)=\((\d+)\)(?: (.*))?$", line)
        if not match:
            continue
        called, kind, number, name = match.groups()
        table = objects if kind == "ob" else functions
        if name:
            table[number] = name.strip()
        if called:
            continue
        if kind == "ob":
            current = table[number]
        elif current == program:
            # A function that calls itself has a number behind its name.
            ran[re.sub(r"'\d+$", "", table[number])] = None
    return list(ran)


def sizes(program: str) -> dict[str, int]:
    symbols = {}
    for line in subprocess.run(["nm", "-S", program], check=True, capture_output=True, text=True).stdout.splitlines():
        match line.split():
            case [_, size, "t" | "T" | "w" | "W", name]:
                symbols[name] = int(size, 16)
    return symbols


def main() -> None:
    program, bench = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "callgrind.out"
        wrapper = pathlib.Path(folder) / "entente"
        wrapper.write_text(
            "#!/bin/sh\n"
            f"exec valgrind -q --tool=callgrind --demangle=no --callgrind-out-file='{result}' '{program}' \"$@\"\n"
        )
        wrapper.chmod(0o755)
        subprocess.run([bench, "idle"], check=True, env=os.environ | {"ENTENTE_BIN": str(wrapper)})
        ran = executed(result, program)
    of_symbol = sizes(program)
    total, run = collections.Counter(), collections.Counter()
    for name, size in of_symbol.items():
        total[without_hash(name)] += size
    for name in ran:
        if re.fullmatch(r"[A-Za-z0-9_.$]+", name) and name in of_symbol:
            run[without_hash(name)] += of_symbol[name]
    if not run:
        sys.exit(f"no function of {program} is known: it has no symbols")
    order = sorted(run, key=lambda name: (-round(run[name] / total[name], 1), name))
    ORDER.write_text(HEAD + "".join(f"{name}\n" for name in order))
    print(f"{len(order)} names, {sum(total[name] for name in order)} bytes, of which {sum(run.values())} run")


if __name__ == "__main__":
    main()
