"""Functions with types, as a plugin: nothing of rpchost's is in here."""

from functools import reduce
from math import isfinite
from operator import add, attrgetter
from statistics import median

from componentize_py_types import Err
from wit_world.exports.api import (
    Fault_NoReadings,
    Fault_NotANumber,
    Fault_TooLarge,
    Reading,
    Summary,
)

# The last one below 2^53.
LAST = 78


class Api:
    def fib(self, n: int) -> int:
        if n > LAST:
            raise Err(Fault_TooLarge())
        a, b = 0, 1
        for _ in range(n):
            a, b = b, a + b
        return a

    def statistics(self, readings: list[Reading]) -> Summary:
        if not readings:
            raise Err(Fault_NoReadings())
        for reading in readings:
            if not isfinite(reading.value):
                raise Err(Fault_NotANumber(reading.sensor))
        by_value = attrgetter("value")
        values = [reading.value for reading in readings]
        return Summary(
            count=len(values),
            # `fmean`, and since Python 3.12 `sum`, round less often than other languages do.
            mean=reduce(add, values, 0.0) / len(values),
            median=median(values),
            # Both take the first of equals.
            lowest=min(readings, key=by_value),
            highest=max(readings, key=by_value),
        )
