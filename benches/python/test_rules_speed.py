"""Rules in the Rust core against the same rules in plain Python, on the same rows in the same run.

Not a race but a tripwire: Python may use all that it has for this (`re`, slices, f-strings), and
knows nothing of escapes, types or several tables. Ratios of one run are all that counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benches.python.test_decoder_speed import ROUNDS, median_ratio

from pgflo import _core
from pgflo.rules.spec import OPERATIONS, GroupTable, Rule, Spec

if TYPE_CHECKING:
    from benches.python.test_decoder_speed import Benchmark

LEAST_RATIO = 2
T = ("public", "t")
ROWS = b"".join(
    b"%d\tperson%d@example.org\t%d\t%d\n" % (number, number, 5_550_000_000 + number, number % 90)
    for number in range(20_000)
)
PHONE = r"^(\d{3})(\d{3})(\d{4})$"
PASSED_ROWS = sum(number % 90 >= 18 for number in range(20_000))


def with_core() -> bytes:
    """Filter, mask and rewrite every row."""
    rules = Spec(
        (
            Rule("age", T, "age", OPERATIONS, "filter", "gte", value="18"),
            Rule("email", T, "email", OPERATIONS, "mask"),
            Rule("phone", T, "phone", OPERATIONS, "regex", pattern=PHONE, replace="($1) $2-$3"),
        ),
        tables=(GroupTable(1, "public", "t", None),),
    ).compiled()
    columns = [
        ("id", 23, -1, True),
        ("email", 25, -1, False),
        ("phone", 25, -1, False),
        ("age", 23, -1, False),
    ]
    program = rules.compile(1, T, "d", columns)
    ((data, _),) = _core.CopyRewriter(program, 3).feed(ROWS)
    return data


def with_python() -> bytes:
    """Do the same."""
    phone = re.compile(PHONE)
    passed = []
    for line in ROWS.decode().splitlines():
        number, email, digits, age = line.split("\t")
        if int(age) < 18:
            continue
        masked = email[0] + "*" * (len(email) - 2) + email[-1]
        dialled = phone.sub(r"(\1) \2-\3", digits)
        passed.append(f"{number}\t{masked}\t{dialled}\t{age}\n")
    return "".join(passed).encode()


def test_the_core_applies_rules_faster_than_python(benchmark: Benchmark) -> None:
    """Filter, mask and regular expression on each of 20,000 rows."""
    data = benchmark.pedantic(with_core, rounds=ROUNDS, iterations=3)
    assert data == with_python()
    assert data.count(b"\n") == PASSED_ROWS
    ratio = median_ratio(with_python, with_core)
    benchmark.extra_info["times faster than Python"] = round(ratio, 1)
    assert ratio >= LEAST_RATIO
