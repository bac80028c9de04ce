/* clones.h - loops that are compiled for several processors, and that may read whole vectors first. */
#ifndef DSTRAIN_COMM_CLONES_H
#define DSTRAIN_COMM_CLONES_H

/* The choice between clones is made before main; the thread sanitizer is not ready for it then. */
#if defined(__has_feature)
#define HAS_FEATURE(feature) __has_feature(feature)
#else
#define HAS_FEATURE(feature) 0
#endif
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !HAS_FEATURE(thread_sanitizer)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

/* What a loop writes is what it reads, element for element, or does not touch it. */
#if defined(__clang__)
#define NO_OVERLAP _Pragma("clang loop vectorize(assume_safety)")
#else
#define NO_OVERLAP _Pragma("GCC ivdep")
#endif

#endif
