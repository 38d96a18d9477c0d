/* The shapes of types that a kernel has, for comparing what is read out of DWARF with what pahole makes of it. */

typedef unsigned int u32;
typedef unsigned long u64;
typedef _Bool bool;

struct elsewhere;
struct nowhere;
typedef struct { int counter; } atomic_t;
typedef struct { long values[2]; struct elsewhere *net; } possible_t;
typedef struct tagged_typedef { char one; atomic_t two; } tagged_t;

struct list { struct list *next, *prev; };

enum state { STATE_NONE, STATE_ONE = 1, STATE_LAST = 0x7fffffff };
enum { UNTAGGED_FIRST = 3, UNTAGGED_SECOND };
enum { OTHER_UNTAGGED = 9 };

struct empty { };

struct everything {
	volatile u32 __state;
	const bool flag;
	unsigned a : 1, b : 3, : 2, c : 11;
	u64 wide : 40;
	signed char small : 4;
	struct list list;
	union {
		const struct list either;
		struct {
			u64 low;
			u32 high[3];
		};
		union { short in; char deep; } named_untagged;
	};
	atomic_t users;
	possible_t possible;
	struct { struct { int x; char y; } inner[2][3]; int len; } backlog;
	char comm[16];
	int matrix[3][5];
	enum state state;
	enum { INNER_A, INNER_B } inner_state;
	int (*call)(struct everything *, int);
	void *data;
	void **indirect;
	const char *const name;
	struct everything *self;
	struct elsewhere *declared;
	struct nowhere *never_defined;
	tagged_t *typedef_pointer;
	possible_t *untagged_pointer;
	int (*array_pointer)[4];
	struct empty nothing;
	double real;
	__int128 huge;
	u32 flexible[];
} __attribute__((aligned(64)));

struct __attribute__((packed)) packed {
	char byte;
	u64 word;
	u32 bits : 5;
	u64 across : 50;
};

union onion {
	struct list list;
	u64 word;
	struct { u32 half : 16; u32 rest : 16; };
};

extern void use_elsewhere(struct everything *);

const char linux_banner[] __attribute__((section(".rodata"))) = "Linux version 9.9.9-types (compiled by a test)";
struct everything init_task = { .state = STATE_ONE, .inner_state = INNER_B };
struct packed packed_object = { .byte = UNTAGGED_SECOND };
union onion onion_object = { .word = OTHER_UNTAGGED };
static volatile int hidden = 7;
tagged_t tagged_object;

void _stext(void)
{
	init_task.users.counter += hidden;
	use_elsewhere(&init_task);
}
