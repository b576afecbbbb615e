// A pool of threads for loops: what an iteration computes does not depend on who runs it, so the bits are the same with
// any number of threads.
#include "pool.h"
#include "ahead.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

// Waiting threads spin, since waking one takes longer than most jobs. Now and then they offer their core to whoever else
// wants it: where other processes are at work, or cores are fewer than threads, spinning would take what a job needs.
enum { SPINS_BEFORE_SLEEP = 20000, SPINS_BEFORE_YIELD = 256 };

static struct {
  _Atomic int kind; // what went wrong first since somebody last asked
  int64_t value, limit;
} error;

void set_error(int kind, int64_t value, int64_t limit) {
  int none = NO_ERROR;
  if (!atomic_compare_exchange_strong(&error.kind, &none, kind)) return;
  error.value = value;
  error.limit = limit;
}

int failed(void) { return atomic_load_explicit(&error.kind, memory_order_relaxed) != NO_ERROR; }

// Gives what went wrong in its words (value, limit) and forgets it; NO_ERROR if nothing has. Not while a call runs.
int64_t take_error(int64_t *words) {
  int kind = atomic_load(&error.kind);
  words[0] = error.value;
  words[1] = error.limit;
  atomic_store(&error.kind, NO_ERROR);
  return kind;
}

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

// Denormals count as 0 while a job runs: a processor takes a hundred times as long for them, and attention with a penalty
// for distance is full of them. Returns the state before, for restore_denormals.
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

static inline void restore_denormals(uint64_t before) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr((unsigned)before);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" ::"r"(before));
#endif
}

static inline uint64_t ticket(uint32_t number, int64_t i) { return (uint64_t)number << 32 | (uint32_t)i; }
int64_t range_start(int64_t count, int thread) { return count * thread / pool.threads; }

// Takes iterations of one job until none is left. Whoever comes late finds another number and leaves: nobody waits for
// a thread that the system has put aside, unless it holds an iteration. What a thread has done is told once, at its end:
// told one by one, the count would go back and forth between the cores.
static void worker_loop(uint32_t number, int thread) {
  int64_t done = 0;
  for (int d = 0; d < pool.threads; d++) {
    int owner = (thread + d) % pool.threads;
    for (;;) {
      uint64_t t = atomic_load(&pool.tickets[owner].next);
      if ((uint32_t)(t >> 32) != number || (int64_t)(uint32_t)t >= range_start(atomic_load(&pool.count), owner + 1)) break;
      if (!atomic_compare_exchange_weak(&pool.tickets[owner].next, &t, t + 1)) continue;
      pool.task(pool.job, (int64_t)(uint32_t)t, thread);
      done++;
    }
  }
  if (done) atomic_fetch_sub(&pool.unfinished, done);
}

static void *worker_main(void *thread) {
  uint32_t seen = 0;
  Fetched fetched = {0};
  flush_denormals();
  for (;;) {
    int spins = 0;
    while (atomic_load(&pool.number) == seen) {
      if (fetch_ahead(&fetched, (int)(intptr_t)thread)) continue;
      if (++spins < SPINS_BEFORE_SLEEP) {
        if (spins % SPINS_BEFORE_YIELD)
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
    worker_loop(seen, (int)(intptr_t)thread);
  }
  return 0;
}

// Hands the iterations of a job to all threads, takes part, and waits for the last.
static void parallel_for_pool(Task task, const void *job, int64_t count) {
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
  worker_loop(number, 0);
  for (int spins = 0; atomic_load(&pool.unfinished) > 0;)
    if (++spins % SPINS_BEFORE_YIELD)
      relax();
    else
      sched_yield();
}

static _Thread_local int alone = -1; // as work_alone has set it

void work_alone(int thread) { alone = thread; }
int works_alone(void) { return alone >= 0; }

void parallel_for(Task task, const void *job, int64_t count) {
  uint64_t before = flush_denormals();
  if (alone >= 0 || pool.threads == 1 || count <= 1)
    for (int64_t i = 0; i < count; i++) task(job, i, (int)max64(0, alone));
  else
    parallel_for_pool(task, job, count);
  restore_denormals(before);
}

// Starts the threads, once a process. Fewer than asked for if the system refuses some.
void start_threads(int64_t threads) {
  if (pool.threads > 1) return;
  int started = 1;
  for (; started < threads && started < MOST_THREADS; started++) {
    pthread_t id;
    if (pthread_create(&id, 0, worker_main, (void *)(intptr_t)started)) break;
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

// For tests: memory beyond so many bytes a piece is refused, as by a system that has no more.
static int64_t most_bytes = INT64_MAX;
void limit_memory(int64_t bytes) { most_bytes = bytes; }

float *scratch(int thread, int slot, int64_t floats) {
  static struct {
    float *at;
    int64_t floats;
  } held[2 * MOST_THREADS + 1][SLOTS];
  if (thread == SHARED && alone >= 0) thread += 1 + alone;
  if (held[thread][slot].floats < floats || !held[thread][slot].at) {
    int64_t bytes = floats * (int64_t)sizeof(float) + 64;
    void *made = 0;
    free(held[thread][slot].at);
    if (bytes > most_bytes || posix_memalign(&made, 64, (size_t)bytes)) made = 0, set_error(OUT_OF_MEMORY, bytes, 0);
    held[thread][slot].at = made;
    held[thread][slot].floats = made ? floats : 0;
  }
  return held[thread][slot].at;
}
