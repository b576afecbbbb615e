// Calls the kernels of a table (n, 64): a function's address, the number of its arguments (62 at most), the arguments as
// 64-bit words. A callee reads as many as it has; words beyond them cost a few nanoseconds. The top half of the count
// says how many of the following rows, this one included, do not depend on one another: one kernel split for cores, or
// with WHOLE calls that are too small to be divided well, of which each thread then does its own.
#include "pool.h"

#define A8(w) (w)[0], (w)[1], (w)[2], (w)[3], (w)[4], (w)[5], (w)[6], (w)[7]
#define W8 uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t
enum { WHOLE = 1 << 16 };
typedef void (*Short)(W8);
typedef void (*Long)(W8, W8, W8, W8, W8, W8, W8, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

static void call(const void *job, int64_t i, int thread) {
  const uint64_t *f = (const uint64_t *)job + i * 64, *w = f + 2;
  (void)thread;
  if ((uint16_t)f[1] <= 8)
    ((Short)f[0])(A8(w));
  else
    ((Long)f[0])(A8(w), A8(w + 8), A8(w + 16), A8(w + 24), A8(w + 32), A8(w + 40), A8(w + 48), w[56], w[57], w[58],
                 w[59], w[60], w[61]);
}

static void call_whole(const void *job, int64_t i, int thread) {
  work_alone(thread);
  call(job, i, thread);
  work_alone(-1);
}

// Stops at the first call that fails, and returns 1: take_error says how.
int replay(const uint64_t *table, int64_t n) {
  for (int64_t i = 0; i < n && !failed();) {
    const uint64_t *first = table + i * 64;
    int64_t together = max64(1, (int64_t)(first[1] >> 32));
    if (first[1] & WHOLE && together >= 2 * thread_count())
      parallel_for(call_whole, first, together);
    else if (!(first[1] & WHOLE) && together > 1)
      parallel_for(call, first, together);
    else
      for (int64_t j = 0; j < together; j++) call(first, j, 0);
    i += together;
  }
  return failed();
}
