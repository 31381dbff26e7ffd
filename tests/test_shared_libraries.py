"""Several compiled libraries in one machine: thread-local variables, resolvers, versions, interposition."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pykprobes import Count, Machine, Symbol, double

from .elf_builder import DYN, ElfBuilder
from .elf_builder import Symbol as ElfSymbol

FLAGS = "-m32 -O1 -fPIC -nostdlib -fno-stack-protector -mno-sse -ffp-contract=off".split()
Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def compile(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """compile(name, source, *flags): the path of the library."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("so")

    def build(name: str, source: str, *flags: str, script: str = "") -> Path:
        output, code = folder / name, folder / f"{name}.c"
        code.write_text(source)
        if script:
            (folder / f"{name}.map").write_text(script)
            flags = (*flags, f"-Wl,--version-script={folder / name}.map")
        shared = ["-shared"] if name.endswith(".so") else []
        command = ["gcc", *FLAGS, *shared, "-o", str(output), str(code), *flags]
        subprocess.run(command, capture_output=True, text=True, check=True)
        return output

    try:
        build("empty.so", "")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"gcc -m32 does not work here: {error.stderr.strip()[-100:]}")
    return build


# Thread-local variables

COUNTERS = """
__thread int before = 11;
static __thread char text[30] = "abc";
__thread long long zeros[9] __attribute__((aligned(64)));
int *place(void) { return &before; }
char *place_of_text(void) { return text; }
void *place_of_zeros(void) { return zeros; }
int next(void) { return ++before + text[1]; }
"""


@pytest.mark.parametrize("model", ["global-dynamic", "local-dynamic", "initial-exec"])
def test_thread_local_variables(compile: Compile, model: str) -> None:
    path = compile(f"counters-{model}.so", COUNTERS, f"-ftls-model={model}")
    with Machine() as m:
        m.load(path)
        assert [m.call("next") for _ in range(3)] == [12 + 98, 13 + 98, 14 + 98]
        assert m.call("place") == m.symbols["before"]
        assert m.memory.u32(m.symbols["before"]) == 14
        assert m.memory.read(m.call("place_of_text"), 30) == b"abc".ljust(30, b"\0")
        zeros = m.call("place_of_zeros")
        assert zeros % 64 == 0 and m.memory.read(zeros, 72) == bytes(72)


def test_thread_local_variables_of_several_images(compile: Compile) -> None:
    """Each image has variables of its own, and one image those of another."""
    first = compile("one.so", "__thread int shared = 5; __thread int other = 6; int *own(void) { return &other; }")
    uses = "extern __thread int shared; __thread char mine = 7; int sum(int a) { mine++; return shared += a + mine; }"
    with Machine() as m:
        m.load(first)
        m.load(compile("dynamic.so", uses), name="dynamic")
        m.load(compile("static.so", uses, "-ftls-model=initial-exec"), name="static")
        assert m.call("dynamic:sum", 100) == 113
        assert m.call("static:sum", 1000) == 1121
        assert m.memory.u32(m.symbols["shared"]) == 1121
        assert m.memory.u32(m.call("own")) == 6


def test_thread_local_variables_need_their_image(compile: Compile) -> None:
    path = compile("missing.so", "extern __thread int elsewhere; int get(void) { return elsewhere; }")
    with Machine() as m:
        with pytest.raises(ValueError, match="the thread-local elsewhere: load the library that has it first"):
            m.load(path)
        assert not m.images


def test_thread_local_variables_after_a_restore(compile: Compile) -> None:
    """The control block goes with the memory that it is in, and comes again with the next image."""
    path = compile("one.so", "__thread int shared = 5; int get(void) { return shared++; }")
    with Machine() as m:
        fresh = m.snapshot()
        for _ in range(2):
            m.load(path)
            loaded = m.snapshot()
            assert [m.call("get"), m.call("get")] == [5, 6]
            m.restore(loaded)
            assert m.call("get") == 5
            m.load(path, name="second")
            assert [m.call("second:get"), m.call("get")] == [5, 6]
            m.restore(fresh)
            assert not m.regs.gs and not m.thread.base


def test_an_ordinary_variable_in_a_thread_local_ones_place(compile: Compile) -> None:
    """A word of the user's own serves code that goes by GS, but not code that asks for a module."""
    source = "extern __thread int errno; int set(int a) { return errno = a; }"
    with Machine() as m:
        word = m.alloc(4)
        m.symbols.add([Symbol("errno", word, 4)])
        m.load(compile("errno-static.so", source, "-ftls-model=initial-exec"))
        m.call("set", 34)
        assert m.memory.u32(word) == 34
        with pytest.raises(ValueError, match=r"errno: the variable at 0x[0-9a-f]* is no thread-local one"):
            m.load(compile("errno-dynamic.so", source))
        assert len(m.images) == 1


def test_no_room_for_thread_local_variables(compile: Compile) -> None:
    path = compile("large.so", "__thread char large[9000]; char *get(void) { return large; }")
    with Machine() as m:
        m.load(path)
        with pytest.raises(ValueError, match=r"no room for 0x2328 bytes .* are taken, by 1 images"):
            m.load(path)
        assert len(m.images) == 1
        m.memory.write(m.call("get"), b"x" * 9000)


def test_a_programs_thread_local_variables_come_first(compile: Compile) -> None:
    """The linker has put their distance from the control block into the program's code."""
    source = "__thread int first = 4, second = 5; int _start(void) { return first++ * 10 + second; }"
    program = compile("program", source, "-static", "-no-pie", "-fno-pic", "-Wl,-Ttext=0x8048000,--build-id=none")
    library = compile("one.so", "__thread int shared = 5; int get(void) { return shared; }")
    with Machine() as m:
        m.load(program)
        m.load(library)
        assert [m.call("_start"), m.call("_start"), m.call("get")] == [45, 55, 5]
        assert m.memory.u32(m.symbols["first"]) == 6
    with Machine() as m:
        m.load(library)
        with pytest.raises(ValueError, match="load it before"):
            m.load(program)


def test_a_bare_machine_has_no_thread(compile: Compile) -> None:
    with Machine(kernel=None) as m:
        with pytest.raises(ValueError, match="built-in kernel side"):
            m.load(compile("counters-bare.so", COUNTERS))
        assert not m.images


def test_damaged_thread_local_segments() -> None:
    """PT_TLS headers that point out of the file's segments, or of nonsensical sizes."""
    builder = ElfBuilder(kind=DYN, base=0, symbols=[ElfSymbol("f", 0x1000)], words=[0])
    good = bytearray(builder.build())
    dynamic = 52 + 2 * 32
    for segment, says in (
        ((7, 0, 0x900000, 0, 4, 4, 4, 4), "outside of the others"),
        ((7, 0, 0x2000, 0, 8, 4, 4, 4), "nonsensical"),
        ((7, 0, 0x2000, 0, 0, 4, 4, 3), "nonsensical"),
        ((7, 0, 0x2000, 0, 0, 0x7FFFFFFF, 4, 4), "no room"),
    ):
        data = bytearray(good)
        data[dynamic : dynamic + 32] = struct.pack("<8I", *segment)
        with Machine() as m, pytest.raises(ValueError, match=says):
            m.load(bytes(data))


# Functions that a resolver chooses

CHOOSER = """
static int by_one(int a) { return a + 1; }
static int by_two(int a) { return a + 2; }
int choice;
extern int knob;
static int (*choose(void))(int) { return ++choice && knob == 2 ? by_two : by_one; }
int step(int) __attribute__((ifunc("choose")));
int twice(int a) { return step(step(a)); }
int (*pointer)(int) = step;
int by_pointer(int a) { return pointer(a); }
"""
HIDDEN = """
static int chosen(int a) { return 3 * a; }
static void *choose(void) { return chosen; }
__attribute__((visibility("hidden"))) int hidden(int) __attribute__((ifunc("choose")));
int triple(int a) { return hidden(a); }
"""


@pytest.mark.parametrize("knob", [1, 2])
def test_a_resolver_chooses_by_what_is_loaded(compile: Compile, knob: int) -> None:
    with Machine() as m:
        m.load(compile(f"knob{knob}.so", f"int knob = {knob};"))
        m.load(compile("chooser.so", CHOOSER))
        m.load(compile("user.so", "int step(int); int use(int a) { return 10 * step(a); }"))
        assert m.call("twice", 10) == 10 + 2 * knob
        assert m.call("by_pointer", 10) == 10 + knob
        assert m.call("use", 10) == 10 * (10 + knob)
        assert m.call("step", 5) == 5 + knob, "the name is the function's, not the resolver's"
        assert m.memory.u32(m.symbols["choice"]) == 1, "the resolver is called once"
        probe = m.kprobe("step", action=Count())
        m.call("use", 1)
        m.call("twice", 1)
        assert probe.hits == 3


def test_a_hidden_function_that_a_resolver_chooses(compile: Compile) -> None:
    with Machine() as m:
        m.load(compile("hidden.so", HIDDEN))
        assert m.call("triple", 7) == 21


def test_a_resolver_that_fails_leaves_no_image(compile: Compile) -> None:
    source = CHOOSER.replace("++choice &&", "*(volatile int *)0xd0000000 &&")
    with Machine() as m:
        m.load(compile("knob1.so", "int knob = 1;"))
        regions, esp, symbols = list(m.regions), m.regs.esp, len(m.symbols)
        with pytest.raises(ValueError, match=r"its resolver of a function, at 0x[0-9a-f]+: .*page fault"):
            m.load(compile("fails.so", source))
        assert ([i.name for i in m.images], m.regs.esp, len(m.symbols)) == (["knob1.so"], esp, symbols)
        assert list(m.regions) == regions
        with pytest.raises(ValueError, match="did not return"):
            m.load(compile("hangs.so", CHOOSER.replace("return ++choice", "for (;;) { choice++; } return choice")))
        m.load(compile("chooser.so", CHOOSER))
        assert m.call("twice", 10) == 12


def test_a_bare_machine_calls_no_resolver(compile: Compile) -> None:
    with Machine(kernel=None) as m, pytest.raises(ValueError, match="a bare machine cannot call"):
        m.load(compile("hidden.so", HIDDEN))


# Versions

VERSIONED = """
int old(void) { return 1; }
int new(void) { return 2; }
__asm__(".symver old, answer@V1");
__asm__(".symver new, answer@@V2");
"""
SCRIPT = "V1 { global: answer; local: *; }; V2 { global: answer; old; new; } V1;"


def test_versions(compile: Compile) -> None:
    provider = compile("versioned.so", VERSIONED, script=SCRIPT)
    old = '__asm__(".symver answer, answer@V1"); int answer(void); int use(void) { return 10 + answer(); }'
    new = "int answer(void); int use(void) { return 10 + answer(); }"
    with Machine() as m:
        m.load(provider)
        m.load(compile("asks-old.so", old, str(provider)), name="old")
        m.load(compile("asks-new.so", new, str(provider)), name="new")
        m.load(compile("asks-none.so", new), name="none")
        assert [m.call(f"{image}:use") for image in ("old", "new", "none")] == [11, 12, 12]
        assert (m.call("answer"), m.call("answer@V1")) == (2, 1)
        assert m.call("versioned.so:answer@V1") == 1
        assert m.symbols.describe(m.symbols["answer"]) in ("answer", "new")


# Interposition, constructors, results


def test_what_is_bound_takes_an_images_own_place(compile: Compile) -> None:
    source = "int allocate(int a) { return a; } int use(int a) { return allocate(a); } void *table[] = {allocate};"
    path = compile("own.so", source)
    with Machine() as m:
        m.load(path)
        assert m.call("use", 5) == 5
    with Machine() as m:
        m.bind("allocate", lambda machine, a: 100 + a)
        m.load(path)
        assert m.call("use", 5) == 105
        assert m.call(m.memory.u32(m.symbols["table"]), 6) == 106
        assert m.call("allocate", 7) == 7, "the image keeps its name for its function"


def test_initializers_run_on_request(compile: Compile) -> None:
    source = """
    int order[4], count;
    __attribute__((constructor(200))) static void second(void) { order[count++] = 2; }
    __attribute__((constructor(101))) static void first(int c, char **v, char **e) { order[count++] = 1 + c + !!*v; }
    """
    with Machine() as m:
        image = m.load(compile("started.so", source))
        assert m.memory.u32(m.symbols["count"]) == 0
        image.initialize(m)
        assert m.memory.read(m.symbols["order"], 8) == struct.pack("<2I", 1, 2)


def test_results(compile: Compile) -> None:
    source = """
    int negative(void) { return -5; }
    long long wide(int a, int b) { return ((long long)a << 32) - b; }
    double half(double a) { return a / 2; }
    long double third(double a) { return (long double)a / 3; }
    """
    with Machine() as m:
        m.load(compile("results.so", source))
        assert (m.call("negative"), m.call("negative", returns="s32")) == (0xFFFFFFFB, -5)
        assert m.call("wide", 3, 7, returns="u64") == (3 << 32) - 7
        assert m.call("wide", -3, 7, returns="s64") == (-3 << 32) - 7
        assert m.call("half", *double(0.3), returns="f64") == 0.15
        assert m.call("third", *double(1.0), returns="f80") == bytes.fromhex("abaaaaaaaaaaaaaafd3f")
        assert list(m.fpu.st) == [0.0] * 8
        with pytest.raises(ValueError, match="returns='f32' must be one of u32, s32"):
            m.call("half", returns="f32")
        with pytest.raises(TypeError, match="double"):
            m.call("half", 0.5)


def test_names_of_aliases() -> None:
    """An address is described by the name that tells most: global, without a version, without underscores."""
    with Machine() as m:
        names = ("__libc_free", "cfree@OLD", "free", "__free")
        m.symbols.add(Symbol(name, 0x1000, 16) for name in names)
        assert m.symbols.describe(0x1004) == "free+0x4"


def test_a_resolver_that_calls_what_is_missing(compile: Compile) -> None:
    source = CHOOSER.replace("++choice &&", "missing() &&").replace("int choice;", "int choice; int missing(void);")
    with Machine() as m:
        m.load(compile("knob1.so", "int knob = 1;"))
        with pytest.raises(ValueError, match=r"its resolver of a function, .*: missing was called"):
            m.load(compile("lost.so", source))
        m.bind("missing", lambda machine: 1)
        m.load(compile("lost.so", source))
        assert m.call("twice", 1) == 3


@pytest.mark.parametrize("seed", range(4))
def test_random_damage(compile: Compile, seed: int) -> None:
    """Whatever the tables of a library say, it loads or is refused, and the machine stays usable."""
    rng = random.Random(seed)
    sources = (compile("all.so", CHOOSER + COUNTERS.replace("int next", "int knob = 2; int next"), "-Wl,-z,norelro"),
               compile("versioned.so", VERSIONED, script=SCRIPT))  # fmt: skip
    refused = 0
    for _ in range(60):
        data = bytearray(rng.choice(sources).read_bytes())
        for _ in range(rng.choice((1, 3, 10))):
            # the headers and the dynamic tables, which come first
            at = rng.randrange(52, 0x600) if rng.random() < 0.8 else rng.randrange(52, len(data))
            data[at] = rng.choice((0, 0xFF, rng.randrange(256)))
        with Machine() as m:
            try:
                m.load(bytes(data))
            except ValueError:
                refused += 1
            name = m.load(sources[0]).name
            assert m.call(f"{name}:place") == m.symbols[f"{name}:before"]
    assert 5 < refused < 60
