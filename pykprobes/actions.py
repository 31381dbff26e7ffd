"""Actions: what C does at a hit, at a few nanoseconds each. Histograms and records have modules of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from .binding_actions import CoreAction, CoreChain
from .fetchargs import FetchArg, parse_fetch
from .filters import compile_filter

if TYPE_CHECKING:
    from .binding import Core
    from .programs import Kept, Op
    from .symbols import SymbolTable

CHAIN_MAX = 64
Fields = Mapping[str, FetchArg]


class Action:
    """What C does at every hit of the probes that have it; one action may serve many probes of one machine."""

    _made: tuple[tuple[Any, ...], dict[str, Any]]  # the arguments, to make another like it

    def __new__(cls, *args: Any, **options: Any) -> Action:
        action = super().__new__(cls)
        action._made = args, options
        return action

    def __init__(self, core: CoreAction) -> None:
        self._core = core
        self._users = 0
        self._owner: Core | None = None
        self._programs: list[list[Op]] = []
        self._alone: CoreChain | None = None  # the chain of nothing else, which many probes may share

    @property
    def count(self) -> int:
        """Hits seen."""
        return int(self._core.c.count)

    @property
    def faults(self) -> int:
        """Hits at which a value could not be computed: memory that is not there, a division by zero."""
        return int(self._core.c.faults)

    def reset(self) -> None:
        """Forget what was counted."""
        self._core.reset()

    def _fields(self) -> Fields:
        """Named fields, which filters of the same chain may use."""
        return {}

    def _compile(self, lookup: Lookup, names: Fields) -> list[list[Op]]:
        """The action's programs, for symbols and names as they are for one probe; ValueError."""
        return []

    def _load(self, programs: list[list[Op]]) -> None:
        """Give the programs to C."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.count:,} hits>"


class Count(Action):
    """Counts hits.

    >>> Count()
    <Count 0 hits>
    """

    def __init__(self) -> None:
        super().__init__(CoreAction("count"))


class Stop(Action):
    """Stops the run at the hit, with the reason STOPPED. The package exports it as StopRun."""

    def __init__(self) -> None:
        super().__init__(CoreAction("stop"))


class _Filter(Action):
    """An action that decides whether those behind it see the hit."""

    @property
    def passed(self) -> int:
        """Hits that went on to the next action."""
        return int(self._core.c.passed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.count:,} hits, {self.passed:,} passed>"


class When(_Filter):
    """Lets a hit go on to the actions behind it when an expression is not 0; `pykprobes.filters` has the grammar.

    Operands are numbers, fetch arguments, and fields by name: those given here and those of the chain's histograms and
    records. A ValueError points at what is wrong; unknown names are told when the probe is registered.

    >>> When("len > 4096 && %ax == 3", len="+12(%sp):u32")
    <When len > 4096 && %ax == 3, 0 hits, 0 passed>
    """

    def __init__(self, expression: str, **fields: str | FetchArg) -> None:
        self.expression = expression
        self.fields = {name: as_field(field, name) for name, field in fields.items()}
        compile_filter(expression, self.fields, lambda name: 0, strict=False)
        super().__init__(CoreAction("when"))

    def _compile(self, lookup: Lookup, names: Fields) -> list[list[Op]]:
        return [compile_filter(self.expression, {**names, **self.fields}, lookup, lookup.kept)[0]]

    def _load(self, programs: list[list[Op]]) -> None:
        self._core.set_program(programs[0])

    def __repr__(self) -> str:
        return f"<When {self.expression}, {self.count:,} hits, {self.passed:,} passed>"


class Sample(_Filter):
    """Lets every n-th hit go on to the actions behind it, or each with a probability, from a seed.

    >>> Sample(100), Sample(probability=0.5, seed=1)
    (<Sample 0 hits, 0 passed>, <Sample 0 hits, 0 passed>)
    """

    def __init__(self, every: int | None = None, *, probability: float | None = None, seed: int = 0) -> None:
        if (every is None) == (probability is None):
            raise ValueError("a sample is Sample(n) for every n-th hit, or Sample(probability=p, seed=s)")
        if every is not None:
            if not 0 < index(every) < 1 << 64:
                raise ValueError(f"every={every}: every n-th hit needs an n of 1 or more")
            super().__init__(CoreAction("every", every=index(every)))
        elif probability is not None:
            if not 0 <= probability <= 1:
                raise ValueError(f"probability={probability} is not within 0 and 1")
            self._seed = index(seed) & (1 << 64) - 1
            threshold = min(int(probability * (1 << 64)), (1 << 64) - 1)
            super().__init__(CoreAction("random", every=threshold, state=self._seed))

    def reset(self) -> None:
        """Forget what was counted, and begin again: the same hits will be chosen."""
        super().reset()
        self._core.c.state = getattr(self, "_seed", 0)


class Lookup:
    """Addresses of the symbols that fields name; in return probes, slots of what is kept at entry."""

    def __init__(self, symbols: SymbolTable, kept: Kept | None = None) -> None:
        self._symbols = symbols
        self.kept = kept

    def __call__(self, name: str) -> int:
        try:
            return self._symbols[name]
        except KeyError as error:
            raise ValueError(f"a field names an unknown symbol: {self._symbols.missing(name)}") from error


def as_field(field: str | FetchArg, name: str = "") -> FetchArg:
    """A fetch argument given as text or parsed."""
    return field if isinstance(field, FetchArg) else parse_fetch(field, name)


def chain(actions: Action | Sequence[Action] | None, filter: str | None = None) -> list[Action]:
    """Check what was given as action= and filter= and return it as a list; TypeError or ValueError."""
    if isinstance(actions, (str, bytes)):
        raise TypeError(f"an action is Count, Hist, Record, When, Sample or StopRun, not {type(actions).__name__}")
    listed = [] if actions is None else [actions] if isinstance(actions, Action) else list(actions)
    for action in listed:
        if not isinstance(action, Action):
            raise TypeError(f"an action is Count, Hist, Record, When, Sample or StopRun, not {type(action).__name__}")
    if len(set(map(id, listed))) < len(listed):
        raise ValueError("an action stands twice in one chain")
    if len(listed) > CHAIN_MAX:
        raise ValueError(f"{len(listed)} actions in one chain: at most {CHAIN_MAX}")
    if filter is not None:
        if not listed:
            raise ValueError("a filter is for actions: give action= with it, or test in the handler")
        listed.insert(0, When(filter))
    return listed


def fresh(action: Action, copies: dict[Action, Action]) -> Action:
    """An action made like another one, with nothing counted; one that was copied before has the same copy again."""
    if action not in copies:
        args, options = action._made
        copies[action] = type(action)(*args, **options)
    return copies[action]


def attach(
    actions: list[Action], owner: Core, symbols: SymbolTable, kept: Kept | None = None, names: Fields | None = None
) -> CoreChain | None:
    """Prepare a chain for a probe of one machine; ValueError before anything changed.

    For the returns of a return probe `kept` gives slots, and `names` are fields that it keeps at entry.
    """
    names = dict(names or {})
    for action in actions:
        names.update(action._fields())
    lookup = Lookup(symbols, kept)
    compiled = []
    for action in actions:
        if action._users and action._owner is not owner:
            raise ValueError(f"{action!r} is in use by another machine")
        programs = action._compile(lookup, names)
        if action._users and programs != action._programs:
            raise ValueError(f"{action!r} is in use by a probe for which its names mean something else")
        compiled.append(programs)
    for action, programs in zip(actions, compiled, strict=True):
        if not action._users:
            action._load(programs)
            action._programs = programs
    for action in actions:
        action._users += 1
        action._owner = owner
    if len(actions) != 1:
        return CoreChain([action._core for action in actions]) if actions else None
    only = actions[0]
    if only._alone is None:
        only._alone = CoreChain([only._core])
    return only._alone


def detach(actions: list[Action]) -> None:
    """Undo attach for one probe."""
    for action in actions:
        action._users -= 1
        if not action._users:
            action._owner = None
