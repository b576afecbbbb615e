// A pool of threads for loops whose iterations do not depend on one another, memory that is kept, and what went wrong.
#pragma once
#include <stdint.h>
#include <string.h>

// Shared by the files of this folder, and seen by nobody else.
#define INTERNAL __attribute__((visibility("hidden")))

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceil_div(int64_t n, int64_t size) { return (n + size - 1) / size; }
static inline int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }

// Iteration i of a job, on a thread 0 … threads - 1.
typedef void (*Task)(const void *job, int64_t i, int thread);

// Runs task(job, 0 … count - 1) on all threads; returns when every iteration has ended. From one thread at a time.
INTERNAL void parallel_for(Task task, const void *job, int64_t count);

// From now on this thread does all of a call by itself, as number `thread` of the pool, while its neighbours do others;
// -1: calls are divided again.
INTERNAL void work_alone(int thread);
INTERNAL int works_alone(void);

int64_t thread_count(void);

// The first of a job's iterations that a thread begins with; it goes on to the first one of the next thread.
INTERNAL int64_t range_start(int64_t count, int thread);

enum { NO_ERROR, OUT_OF_MEMORY, INDEX_OUT_OF_RANGE };

// Notes what went wrong first. A function that fails leaves its results as they are and returns; the process goes on, and
// the caller, who asks (take_error), says it in words. `value` and `limit` are the bytes that were wanted; or the index,
// and how many there are.
INTERNAL void set_error(int kind, int64_t value, int64_t limit);
INTERNAL int failed(void);

// Whether an index into `limit` rows leads anywhere; one that does not is an error.
static inline int check_index(int64_t index, int64_t limit) {
  if (index >= 0 && index < limit) return 1;
  set_error(INDEX_OUT_OF_RANGE, index, limit);
  return 0;
}

// The users of memory that is kept: of each thread's own, and of all threads together (thread SHARED).
enum { COPIED_ROWS, WIDENED, UNTRANSPOSED, K_T, V_PANELS, V_T, K_PANELS, SCORES, WEIGHTS, Q_PANELS, D_PANELS, DERIVATIVES, DROPPED,
       SLOTS };
enum { MOST_THREADS = 64, SHARED = MOST_THREADS, PACKED = 0, PACKED_ROWS, PARTIAL, MUON_X, MUON_Y, MUON_GRAM, MUON_SQUARE,
       ROUNDED_ROWS, DEQUANTISED, FEW };

// Memory of `floats` elements, aligned to 64 bytes, or 0 where there is none, which is an error. What is in it lasts until
// the next user of the slot.
INTERNAL float *scratch(int thread, int slot, int64_t floats);
