// A pool of threads for loops whose iterations do not depend on one another. What an iteration computes does not depend
// on who runs it, so the bits are the same with any number of threads.
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Waiting threads spin, since waking one takes longer than most jobs. Now and then they offer their core to whoever else
// wants it: where other processes are at work, or cores are fewer than threads, spinning would take what a job needs.
enum { MOST_THREADS = 64, PATIENCE = 20000, POLITE = 256 };

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }
static inline int64_t up(int64_t n, int64_t to) { return parts(n, to) * to; }

// What went wrong first since somebody last asked. A function that fails leaves its results as they are and returns; the
// process goes on, and the caller, who asks, says it in words.
enum { FINE, NO_MEMORY, NO_SUCH_INDEX };
static struct {
  _Atomic int kind;
  int64_t value, limit; // bytes that were wanted; the index, and how many there are
} trouble;

static void fail(int kind, int64_t value, int64_t limit) {
  int none = FINE;
  if (!atomic_compare_exchange_strong(&trouble.kind, &none, kind)) return;
  trouble.value = value;
  trouble.limit = limit;
}

static inline int failed(void) { return atomic_load_explicit(&trouble.kind, memory_order_relaxed) != FINE; }

// Gives what went wrong in its words (value, limit) and forgets it; FINE if nothing has. Not while a call runs.
int64_t take_trouble(int64_t *words) {
  int kind = atomic_load(&trouble.kind);
  words[0] = trouble.value;
  words[1] = trouble.limit;
  atomic_store(&trouble.kind, FINE);
  return kind;
}

// Whether an index into `limit` rows leads anywhere; one that does not is told.
static inline int inside(int64_t index, int64_t limit) {
  if (index >= 0 && index < limit) return 1;
  fail(NO_SUCH_INDEX, index, limit);
  return 0;
}

// Iteration i of a job, on a thread 0 … threads - 1.
typedef void (*Task)(const void *job, int64_t i, int thread);

// Each thread begins with a range of its own, the same for jobs of the same size, so that the rows that it wrote are in
// its cache when it reads them; then it helps the others. A ticket is a job's number (32 bits) and an iteration.
typedef struct {
  _Atomic uint64_t next;
  char alone[56]; // in its cache line
} Ticket;

static struct {
  Ticket tickets[MOST_THREADS];
  _Atomic uint32_t number;
  _Atomic int64_t unfinished; // iterations of the job that have not ended
  _Atomic int64_t count;      // iterations of the job
  Task task;
  const void *job;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  _Atomic int asleep;
  int threads;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .threads = 1};

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Numbers too small for a full mantissa count as 0 while a job runs: a processor takes a hundred times as long for them, and
// attention with a penalty for distance is full of them. Returns the state before, which `restore` sets again.
static inline uint64_t flush_denormals(void) {
  uint64_t before = 0;
#if defined(__x86_64__)
  before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr((unsigned)before | 0x8040);
#elif defined(__aarch64__)
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  __asm__ volatile("msr fpcr, %0" ::"r"(before | 1 << 24));
#endif
  return before;
}

static inline void restore(uint64_t before) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr((unsigned)before);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" ::"r"(before));
#endif
}

static inline uint64_t ticket(uint32_t number, int64_t i) { return (uint64_t)number << 32 | (uint32_t)i; }
static inline int64_t range_start(int64_t count, int thread) { return count * thread / pool.threads; }

// Takes iterations of one job until none is left. Whoever comes late finds another number and leaves: nobody waits for
// a thread that the system has put aside, unless it holds an iteration.
static void take(uint32_t number, int thread) {
  for (int d = 0; d < pool.threads; d++) {
    int owner = (thread + d) % pool.threads;
    for (;;) {
      uint64_t t = atomic_load(&pool.tickets[owner].next);
      if ((uint32_t)(t >> 32) != number) return;
      if ((int64_t)(uint32_t)t >= range_start(atomic_load(&pool.count), owner + 1)) break;
      if (!atomic_compare_exchange_weak(&pool.tickets[owner].next, &t, t + 1)) continue;
      pool.task(pool.job, (int64_t)(uint32_t)t, thread);
      atomic_fetch_sub(&pool.unfinished, 1);
    }
  }
}

static void *worker(void *thread) {
  uint32_t seen = 0;
  flush_denormals();
  for (;;) {
    int spins = 0;
    while (atomic_load(&pool.number) == seen) {
      if (++spins < PATIENCE) {
        if (spins % POLITE)
          relax();
        else
          sched_yield();
        continue;
      }
      pthread_mutex_lock(&pool.lock);
      atomic_fetch_add(&pool.asleep, 1);
      while (atomic_load(&pool.number) == seen) pthread_cond_wait(&pool.wake, &pool.lock);
      atomic_fetch_sub(&pool.asleep, 1);
      pthread_mutex_unlock(&pool.lock);
    }
    seen = atomic_load(&pool.number);
    take(seen, (int)(intptr_t)thread);
  }
  return 0;
}

// Hands the iterations of a job to all threads, takes part, and waits for the last.
static void share_out(Task task, const void *job, int64_t count) {
  uint32_t number = atomic_load(&pool.number) + 1;
  // Until the new tickets stand, the old ones lie beyond any count: no late thread takes part in a half-made job.
  for (int t = 0; t < pool.threads; t++) atomic_store(&pool.tickets[t].next, ticket(number - 1, UINT32_MAX));
  pool.task = task;
  pool.job = job;
  atomic_store(&pool.count, count);
  atomic_store(&pool.unfinished, count);
  for (int t = 0; t < pool.threads; t++) atomic_store(&pool.tickets[t].next, ticket(number, range_start(count, t)));
  atomic_store(&pool.number, number);
  if (atomic_load(&pool.asleep)) {
    pthread_mutex_lock(&pool.lock);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
  }
  take(number, 0);
  for (int spins = 0; atomic_load(&pool.unfinished) > 0;)
    if (++spins % POLITE)
      relax();
    else
      sched_yield();
}

// The thread that does all of a call by itself, while its neighbours do others; -1 where calls are divided.
static _Thread_local int alone = -1;

// Runs task(job, 0 … count - 1) on all threads; returns when every iteration has ended. From one thread at a time.
static void parallel(Task task, const void *job, int64_t count) {
  uint64_t before = flush_denormals();
  if (alone >= 0 || pool.threads == 1 || count <= 1)
    for (int64_t i = 0; i < count; i++) task(job, i, (int)most(0, alone));
  else
    share_out(task, job, count);
  restore(before);
}

// Starts the threads, once a process. Fewer than asked for if the system refuses some.
void start_threads(int64_t threads) {
  if (pool.threads > 1) return;
  int started = 1;
  for (; started < threads && started < MOST_THREADS; started++) {
    pthread_t id;
    if (pthread_create(&id, 0, worker, (void *)(intptr_t)started)) break;
    pthread_detach(id);
  }
  pool.threads = started;
}

int64_t thread_count(void) { return pool.threads; }

// In the child of a fork, which has none of the threads: as before the start, so that new threads see no job that has
// ended. No job may have been running.
void forget_threads(void) {
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
  pool.lock = lock;
  pool.wake = wake;
  for (int t = 0; t < MOST_THREADS; t++) atomic_store(&pool.tickets[t].next, 0);
  atomic_store(&pool.number, 0);
  atomic_store(&pool.asleep, 0);
  pool.threads = 1;
}

// Who uses memory that is kept: of each thread's own, and of all threads together (thread SHARED).
enum { COPIED_ROWS, TO_TURN, K_T, V_PANELS, V_T, K_PANELS, SCORES, WEIGHTS, Q_PANELS, D_PANELS, DERIVATIVES, SLOTS };
enum { SHARED = MOST_THREADS, PACKED = 0, PACKED_ROWS, PARTIAL, MUON_X, MUON_Y, MUON_GRAM, MUON_SQUARE };

// For tests: memory beyond so many bytes a piece is refused, as by a system that has no more.
static int64_t most_bytes = INT64_MAX;
void limit_memory(int64_t bytes) { most_bytes = bytes; }

// Memory that grows and is kept, aligned to 64 bytes, or 0 where there is none, which is told. What is in it lasts until
// the next user of the slot.
static float *scratch(int thread, int slot, int64_t floats) {
  static struct {
    float *at;
    int64_t floats;
  } held[2 * MOST_THREADS + 1][SLOTS];
  if (thread == SHARED && alone >= 0) thread += 1 + alone;
  if (held[thread][slot].floats < floats || !held[thread][slot].at) {
    int64_t bytes = floats * (int64_t)sizeof(float) + 64;
    void *made = 0;
    free(held[thread][slot].at);
    if (bytes > most_bytes || posix_memalign(&made, 64, (size_t)bytes)) made = 0, fail(NO_MEMORY, bytes, 0);
    held[thread][slot].at = made;
    held[thread][slot].floats = made ? floats : 0;
  }
  return held[thread][slot].at;
}
