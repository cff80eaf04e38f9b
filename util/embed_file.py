# SPDX-License-Identifier: Apache-2.0
"""Writes a file's bytes as a C array, so that the program carries it: NAME INPUT OUTPUT.

The array is `static const unsigned char NAME[]` and ends in a NUL that NAME_SIZE does not count.
"""

import sys

PER_LINE = 20


def main():
    name, source, target = sys.argv[1:]
    with open(source, "rb") as file:
        content = file.read()
    lines = (content[i:i + PER_LINE] for i in range(0, len(content), PER_LINE))
    rows = ("    " + " ".join(f"{byte}," for byte in line) for line in lines)
    with open(target, "w", encoding="ascii") as file:
        file.write(f"enum {{ {name}_SIZE = {len(content)} }};\n")
        file.write(f"static const unsigned char {name}[] = {{\n")
        file.writelines(row + "\n" for row in rows)
        file.write("    0,\n};\n")


main()
