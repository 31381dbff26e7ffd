/* Calls functions of shared libraries for whoever writes requests to its standard input: see sides.py. No headers and
 * no C runtime of the host: it is linked with the i386 C library that was fetched, and started by its dynamic linker. */

typedef unsigned int u32;

enum { RTLD_NOW = 2, RTLD_GLOBAL = 0x100, PROT_RW = 3, MAP_FIXED_PRIVATE = 0x32, WORDS_MAX = 64, NAME_MAX = 256 };

extern int read(int fd, void *data, u32 size);
extern int write(int fd, const void *data, u32 size);
extern void *mmap(void *address, u32 size, int protection, int flags, int fd, int offset);
extern void *dlopen(const char *path, int flags);
extern void *dlsym(void *library, const char *name);
extern char *dlerror(void);
extern u32 strlen(const char *text);
extern void exit(int status) __attribute__((noreturn));

struct answer {
    u32 eax, edx;
    unsigned char st0[10]; /* zero where the function left none */
    unsigned char pad[2];
};

/* call_words(function, words, count, answer): cdecl on a stack that is aligned as the ABI has it. */
void call_words(void *function, const u32 *words, u32 count, struct answer *answer);
__asm__("call_words:\n"
        "push %ebp; mov %esp, %ebp; push %ebx; push %esi; push %edi\n"
        "mov 16(%ebp), %ecx; mov 12(%ebp), %esi\n"
        "lea (,%ecx,4), %eax; sub %eax, %esp; and $-16, %esp\n"
        "mov %esp, %edi; cld; rep movsl\n"
        "call *8(%ebp)\n"
        "mov 20(%ebp), %ebx; mov %eax, (%ebx); mov %edx, 4(%ebx)\n"
        "fxam; fnstsw %ax; and $0x4500, %ax; cmp $0x4100, %ax; je 1f; fstpt 8(%ebx)\n"
        "1: lea -12(%ebp), %esp; pop %edi; pop %esi; pop %ebx; pop %ebp; ret\n");

static void get(void *data, u32 size) {
    for (char *at = data; size;) {
        int done = read(0, at, size);
        if (done <= 0) {
            exit(0);
        }
        at += done;
        size -= (u32)done;
    }
}

static void put(const void *data, u32 size) {
    for (const char *at = data; size;) {
        int done = write(1, at, size);
        if (done <= 0) {
            exit(1);
        }
        at += done;
        size -= (u32)done;
    }
}

static u32 word(void) {
    u32 value;
    get(&value, 4);
    return value;
}

static void fail(const char *why) {
    write(2, why, strlen(why));
    exit(2);
}

static void serve_call(void *const *libraries, int count) {
    char name[NAME_MAX];
    u32 words[WORDS_MAX], length = word(), n;
    get(name, length);
    name[length] = 0;
    n = word();
    get(words, 4 * n);
    void *function = 0;
    for (int i = 0; i < count && !function; i++) {
        function = dlsym(libraries[i], name);
    }
    if (!function) {
        fail(dlerror());
    }
    struct answer answer = {0};
    call_words(function, words, n, &answer);
    put(&answer, sizeof answer);
}

/* arguments: base and size of the memory that requests use, in decimal pages; then the libraries */
void serve(int argc, char **argv) {
    void *libraries[16];
    int count = 0;
    u32 base = word(), size = word();
    if (mmap((void *)base, size, PROT_RW, MAP_FIXED_PRIVATE, -1, 0) != (void *)base) {
        fail("the memory for requests is taken");
    }
    for (int i = 1; i < argc && count < 16; i++) {
        libraries[count] = dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL);
        if (!libraries[count++]) {
            fail(dlerror());
        }
    }
    for (;;) {
        u32 kind = word();
        if (kind == 'c') {
            serve_call(libraries, count);
            continue;
        }
        u32 address = word(), length = word();
        if (kind == 'w') {
            get((void *)address, length);
        } else {
            put((void *)address, length);
        }
    }
}

__asm__(".globl _start\n_start: mov %esp, %eax; and $-16, %esp; sub $8, %esp; lea 4(%eax), %edx; push %edx; push (%eax);"
        " call serve\n");
