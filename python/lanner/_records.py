"""`dataclass` for the modules on the way to a first token.

The standard one imports `inspect` and compiles source text for every class, which takes a cold start longer
than to map, parse and tokenize. Here all classes share their methods. `dataclasses.fields`, `replace` and
`asdict`, `inspect.signature`, pattern matching, copies and pickles work as they do there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    _MISSING = object()
    _put = object.__setattr__

    class field:  # noqa: N801 - its name in dataclasses
        """What a class says of a field beside its name and type."""

        __slots__ = ("default", "default_factory", "kw_only", "repr", "type")

        def __init__(self, *, default=_MISSING, default_factory=_MISSING, repr=True):
            self.default = default
            self.default_factory = default_factory
            self.repr = repr

        def start(self):
            """The value of a field that is not given, _MISSING where it must be."""
            return self.default if self.default_factory is _MISSING else self.default_factory()

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, kw_only=False):
        """As in `dataclasses`, with the options that this library uses."""
        if cls is None:
            return lambda cls: _finished(cls, frozen, slots, eq, kw_only)
        return _finished(cls, frozen, slots, eq, kw_only)

    def replace(instance, /, **changes):
        """A copy with other values of some fields."""
        return type(instance)(**{name: getattr(instance, name) for name in instance._record} | changes)

    def _finished(cls, frozen, slots, eq, kw_only):
        fields = {}
        for base in reversed(cls.__mro__[1:]):
            fields |= base.__dict__.get("_record", {})
        for name, type in cls.__annotations__.items():
            value = cls.__dict__.get(name, _MISSING)
            fields[name] = value if isinstance(value, field) else field(default=value)
            fields[name].kw_only, fields[name].type = kw_only, type
            if isinstance(value, field):
                delattr(cls, name)  # a factory makes one for each instance
        if slots:
            cls = _slotted(cls)
        cls._record = fields
        cls._record_is_frozen = frozen
        cls.__match_args__ = tuple(name for name, each in fields.items() if not each.kw_only)
        cls.__init__ = _init_of(cls)
        cls.__repr__ = _repr
        cls.__replace__ = replace  # for copy.replace
        if eq:
            cls.__eq__ = _eq
            cls.__hash__ = _hash if frozen else None
        if frozen:
            cls.__setattr__, cls.__delattr__ = _refuse, _refuse
        if frozen and slots:
            cls.__getstate__, cls.__setstate__ = _values, _set_state
        for name in _STANDARD:
            setattr(cls, name, _OnDemand(name))
        return cls

    def _slotted(cls):
        """The class anew, without the attributes that its slots take the place of."""
        names = tuple(cls.__annotations__)
        members = {name: each for name, each in cls.__dict__.items() if name not in names}
        members.pop("__dict__", None)
        members.pop("__weakref__", None)
        made = type(cls)(cls.__name__, cls.__bases__, members | {"__slots__": names})
        made.__qualname__ = cls.__qualname__
        return made

    def _init_of(cls):
        names, after = tuple(cls._record), getattr(cls, "__post_init__", None)
        rest = {len(names): ()}  # by the number of arguments, where the others have plain defaults
        for n in reversed(range(len(names))):
            each = cls._record[names[n]]
            if each.default is _MISSING:
                break
            rest[n] = (each.default, *rest[n + 1])
        if names != cls.__match_args__:
            rest = {}

        def init(self, *args, **given):
            if given or len(args) not in rest:
                args = _bound(cls, args, given)
            elif len(args) < len(names):
                args += rest[len(args)]
            for name, value in zip(names, args):  # noqa: B905 - the lengths were compared
                _put(self, name, value)
            if after is not None:
                after(self)

        init.__name__, init.__qualname__ = "__init__", f"{cls.__qualname__}.__init__"
        return init

    def _bound(cls, args, given):
        """The values of all fields, in their order, of the arguments of a call."""
        call, positional = f"{cls.__qualname__}.__init__()", cls.__match_args__
        if len(args) > len(positional):
            raise TypeError(f"{call} takes {len(positional)} positional arguments but {len(args)} were given")
        values = dict(zip(positional, args))  # noqa: B905 - the others may be keywords
        for name in given:
            if name not in cls._record:
                raise TypeError(f"{call} got an unexpected keyword argument {name!r}")
            if name in values:
                raise TypeError(f"{call} got multiple values for argument {name!r}")
        values |= given
        bound = [values[name] if name in values else each.start() for name, each in cls._record.items()]
        missing = [name for name, value in zip(cls._record, bound) if value is _MISSING]  # noqa: B905
        if missing:
            raise TypeError(f"{call} misses {', '.join(map(repr, missing))}")
        return bound

    def _values(self):
        return [getattr(self, name) for name in self._record]

    def _set_state(self, values):
        for name, value in zip(self._record, values):  # noqa: B905
            _put(self, name, value)

    def _repr(self):
        shown = (f"{name}={getattr(self, name)!r}" for name, each in self._record.items() if each.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _eq(self, other):
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def _hash(self):
        return hash(tuple(_values(self)))

    def _refuse(self, name, *value):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {'assign to' if value else 'delete'} field {name!r}")

    class _OnDemand:
        """An attribute that the standard library asks of a dataclass, made with its own when it does."""

        def __init__(self, name):
            self._name = name

        def __get__(self, instance, owner):
            import dataclasses
            from inspect import signature

            frozen = owner._record_is_frozen
            members = [
                (name, each.type, _standard_field(dataclasses, each)) for name, each in owner._record.items()
            ]
            twin = dataclasses.make_dataclass(owner.__name__, members, frozen=frozen)
            found = signature(twin) if self._name == "__signature__" else getattr(twin, self._name)
            setattr(owner, self._name, found)
            return found

    _STANDARD = ("__dataclass_fields__", "__dataclass_params__", "__signature__")

    def _standard_field(dataclasses, each):
        options = {"repr": each.repr, "kw_only": each.kw_only}
        for name in ("default", "default_factory"):
            if getattr(each, name) is not _MISSING:
                options[name] = getattr(each, name)
        return dataclasses.field(**options)
