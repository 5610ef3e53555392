#!/usr/bin/env python3
"""compare.py INDEX EXPECTED yes|no CASES...: compares the suite's report with the expected results (with yes, writes them).

EXPECTED has a line for each group of cases with the same result: the group, the behaviour, the close, the cases.
"""
import fnmatch
import json
import sys

FAILURES = {"FAILED", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT", "UNIMPLEMENTED"}


def numbers(case):
    return [int(part) for part in case.split(".")]


def read(path):
    expected = {}
    for line in open(path):
        if line.startswith("#"):
            continue
        group, behaviour, close, *cases = line.split()
        for case in cases:
            expected[f"{group}.{case}"] = (behaviour, close)
    return expected


def write(path, results):
    lines = {}
    for case in sorted(results, key=numbers):
        group, _, last = case.rpartition(".")
        lines.setdefault((group, *results[case]), []).append(last)
    with open(path, "w") as out:
        out.write("# Autobahn|Testsuite 0.8.2, fuzzing client: group, behaviour, close, cases. Written by run.sh --write.\n")
        for key in sorted(lines, key=lambda key: numbers(key[0])):
            out.write(" ".join([*key, *lines[key]]) + "\n")


def main():
    index, path, writes, patterns = sys.argv[1], sys.argv[2], sys.argv[3] == "yes", sys.argv[4:]
    report = json.load(open(index))["tickgate"]
    results = {
        case: (outcome["behavior"].replace(" ", "-"), outcome["behaviorClose"].replace(" ", "-"))
        for case, outcome in report.items()
    }
    failed = sorted((case for case, outcome in results.items() if {word.replace("-", " ") for word in outcome} & FAILURES
                     or outcome[0] in FAILURES), key=numbers)
    counts = {}
    for outcome in results.values():
        counts[outcome[0]] = counts.get(outcome[0], 0) + 1
    print(f"{len(results)} cases: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    if writes:
        write(path, results)
        return 1 if failed else 0
    expected = read(path)
    wanted = {case for case in expected if any(fnmatch.fnmatch(case, pattern) for pattern in patterns)}
    different = sorted((case for case in wanted | set(results) if expected.get(case) != results.get(case)), key=numbers)
    for case in different:
        print(f"{case}: expected {expected.get(case)}, got {results.get(case)}")
    for case in failed:
        print(f"{case}: {results[case]}")
    return 1 if different or failed else 0


sys.exit(main())
