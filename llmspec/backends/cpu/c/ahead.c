// Hints of what is read next (ahead.h).
#include "ahead.h"

#include <stdatomic.h>

enum { PRODUCTS = 1024, AT_ONCE = 256, MOST_AHEAD = 384 << 10 };

// By the address of a product's first weights: what was read after it. Products that share a slot forget each other.
typedef struct {
  const char *of;
  Weights next;
} Known;
static Known known[PRODUCTS];
static int last = -1;
static const Weights *_Atomic ahead;

static int slot_of(const char *at) { return (int)(((uintptr_t)at >> 6) * 0x9e3779b97f4a7c15ull >> 54); }

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

// A thread's own part comes first, then what is left, since it helps the others; then what follows that product.
int fetch_ahead(Fetched *fetched, int thread) {
  const Weights *next = atomic_load_explicit(&ahead, memory_order_relaxed);
  if (fetched->of != next) *fetched = (Fetched){next, 0};
  int64_t done = fetched->done;
  if (!next || done >= MOST_AHEAD) return 0;
  int64_t bytes = bytes_ahead(next), own = part_start(bytes, thread);
  fetched->done += AT_ONCE;
  while (next && done >= bytes) {
    done -= bytes;
    const Known *after = &known[slot_of(next->at[0])];
    next = after->of == next->at[0] && after->next.at[0] ? &after->next : 0;
    if (next) bytes = bytes_ahead(next), own = part_start(bytes, thread);
  }
  if (!next) return 0;
  const char *from = at_byte(next, (own + done) % bytes);
  for (int64_t j = 0; j < AT_ONCE; j += 64) __builtin_prefetch(from + j, 0, 2);
  return 1;
}
