"""Stands in for the package rpds-py, which is native code and cannot be part of a component.

jsonschema and referencing take three persistent collections from it. With those of Python, copied
for each change, the same results take more time where there are many; schemas have few. A module
of the project is found before the package of the same name in `.venv`.
"""

from collections.abc import Iterable, Mapping
from typing import Self


class HashTrieMap[K, V](dict[K, V]):
    @classmethod
    def convert(cls, value: Mapping[K, V] | Iterable[tuple[K, V]]) -> Self:
        return value if isinstance(value, cls) else cls(value)

    def insert(self, key: K, value: V) -> Self:
        return type(self)({**self, key: value})

    def remove(self, key: K) -> Self:
        if key not in self:
            raise KeyError(key)
        return type(self)((other, value) for other, value in self.items() if other != key)

    def update(self, *others: Mapping[K, V] | Iterable[tuple[K, V]]) -> Self:
        merged = dict(self)
        for other in others:
            merged.update(other)
        return type(self)(merged)


class HashTrieSet[T](frozenset[T]):
    def insert(self, value: T) -> Self:
        return type(self)(self | {value})

    def update(self, *others: Iterable[T]) -> Self:
        return type(self)(self.union(*others))


class List[T](tuple[T, ...]):
    def push_front(self, value: T) -> Self:
        return type(self)((value, *self))
