// What the next product reads, fetched while a core would wait.
//
// Decoding reads every weight of a model once a token, always in the same order. Between two products memory would rest:
// norms, rotations and attention take a few microseconds each, and every new stretch of memory begins slowly. So each
// product remembers which one came after it, and the next time its threads go on with the beginning of that one's weights.
// Only hints are given: whatever they say, no result changes, and an address that is not there any more does no harm.
#pragma once
#include "pool.h"

enum { MOST_PIECES = 3 };

// What a product reads once, in the order in which its iterations do
typedef struct {
  const char *at[MOST_PIECES];
  int64_t bytes[MOST_PIECES];
} Weights;

// Notes that a product begins, which reads `now`; gives what was read after it the last time, 0 if it never was. Waiting
// threads fetch that from now on. No address: nothing is read once, and nothing is known to follow. From one thread at a
// time, but for those that do a call each.
INTERNAL const Weights *product_begins(Weights now);

// Where a thread's part of `next` begins; 0 where nothing is known
INTERNAL const char *part_begins(const Weights *next, int thread);

// How far a thread has fetched what is ahead
typedef struct {
  const Weights *of, *at; // the product that came next when it began; the one that it has got to
  int64_t done, sum, bytes; // bytes of that one, and of all; how many that one reads
} Fetched;

// Fetches a little more of what is ahead into the caches of a thread that waits; whether there was any.
INTERNAL int fetch_ahead(Fetched *fetched, int thread);
