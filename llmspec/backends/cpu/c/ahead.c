// Hints of what is read next (ahead.h).
#include "ahead.h"

#include <stdatomic.h>

enum { PRODUCTS = 4096, PROBED = 16, AT_ONCE = 256, MOST_AHEAD = 32 << 20 };

// By the address of a product's first weights: what was read after it. Of products whose PROBED slots are all taken one
// is forgotten.
typedef struct {
  const char *of;
  Weights next;
} Known;
static Known known[PRODUCTS];
static int last = -1;
static const Weights *_Atomic ahead;

// Where a product stands, or is to stand
static int slot_of(const char *at) {
  int first = (int)(((uintptr_t)at >> 6) * 0x9e3779b97f4a7c15ull >> 52);
  for (int j = 0; j < PROBED; j++) {
    const char *of = known[(first + j) % PRODUCTS].of;
    if (!of || of == at) return (first + j) % PRODUCTS;
  }
  return first;
}

const Weights *product_begins(Weights now) {
  int slot = slot_of(now.at[0]);
  if (works_alone()) return 0;
  if (!now.at[0] || !now.bytes[0]) {
    last = -1;
    atomic_store_explicit(&ahead, 0, memory_order_relaxed);
    return 0;
  }
  if (last >= 0 && memcmp(&known[last].next, &now, sizeof now)) {
    atomic_store_explicit(&ahead, 0, memory_order_relaxed);
    known[last].next = now;
  }
  if (known[slot].of != now.at[0]) {
    known[slot].of = now.at[0];
    memset(&known[slot].next, 0, sizeof now);
  }
  last = slot;
  const Weights *next = known[slot].next.at[0] ? &known[slot].next : 0;
  atomic_store_explicit(&ahead, next, memory_order_relaxed);
  return next;
}

static int64_t bytes_ahead(const Weights *w) {
  int64_t sum = 0;
  for (int j = 0; j < MOST_PIECES; j++) sum += w->bytes[j];
  return sum;
}

static int64_t part_start(int64_t bytes, int thread) { return bytes * thread / thread_count() / 64 * 64; }

static const char *at_byte(const Weights *w, int64_t byte) {
  int j = 0;
  while (j + 1 < MOST_PIECES && byte >= w->bytes[j]) byte -= w->bytes[j++];
  return w->at[j] + byte;
}

const char *part_begins(const Weights *next, int thread) {
  return next ? at_byte(next, part_start(bytes_ahead(next), thread)) : 0;
}

// A thread's own part comes first, then what is left, since it helps the others; then what follows that product. Beyond
// what a thread's own cache holds lines go on to the one that all share, so that memory rests neither while Python turns
// logits into the next token.
int fetch_ahead(Fetched *fetched, int thread) {
  const Weights *next = atomic_load_explicit(&ahead, memory_order_relaxed);
  if (fetched->of != next) *fetched = (Fetched){next, next, 0, 0, next ? bytes_ahead(next) : 0};
  if (!fetched->at || fetched->sum >= MOST_AHEAD / thread_count()) return 0;
  if (fetched->done >= fetched->bytes) {
    const Known *after = &known[slot_of(fetched->at->at[0])];
    const Weights *then = after->of == fetched->at->at[0] && after->next.at[0] ? &after->next : 0;
    *fetched = (Fetched){next, then, 0, fetched->sum, then ? bytes_ahead(then) : 0};
    if (fetched->bytes <= 0) return 0;
  }
  int64_t own = part_start(fetched->bytes, thread);
  const char *from = at_byte(fetched->at, (own + fetched->done) % fetched->bytes);
  for (int64_t j = 0; j < AT_ONCE; j += 64) __builtin_prefetch(from + j, 0, 2);
  fetched->done += AT_ONCE;
  fetched->sum += AT_ONCE;
  return 1;
}
