"""Small immutable values with named fields, like frozen dataclasses, for where there are many of them.

`dataclass` compiles half a dozen functions for each class: 25 ms and 0.6 MB for the events and actions of `handover`
alone, at every start and in every master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Value:
    """A subclass annotates its fields, and gives those defaults that may be left out."""

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls.__match_args__ = (*cls.__match_args__, *cls.__annotations__)  # type: ignore[misc]

    if not TYPE_CHECKING:

        def __init__(self, *args, **kwargs):
            names = self.__match_args__
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            if len(given) != len(args) + len(kwargs) or not given.keys() <= set(names):
                raise TypeError(f"{type(self).__name__} takes {', '.join(names) or 'nothing'}; got {args}, {kwargs}")
            for name in names:
                # AttributeError: it has no default.
                self.__dict__[name] = given[name] if name in given else getattr(type(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"
