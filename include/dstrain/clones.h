/* clones.h - loops that are compiled for several processors, and that may read whole vectors first. For .c files
 * alone. Goes on functions that call nothing but inline functions; without contraction all clones have the same
 * bits. */
#ifndef DSTRAIN_CLONES_H
#define DSTRAIN_CLONES_H

/* The choice between clones is made before main; the thread sanitizer is not ready for it then. */
#if defined(__has_feature)
#define DS_HAS_FEATURE(feature) __has_feature(feature)
#else
#define DS_HAS_FEATURE(feature) 0
#endif
#if !defined(__x86_64__) || defined(__SANITIZE_THREAD__) || DS_HAS_FEATURE(thread_sanitizer)
#define DS_CLONES
#elif !defined(__clang__) && __GNUC__ >= 12 && !defined(__SANITIZE_ADDRESS__)
#define DS_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DS_CLONES __attribute__((target_clones("avx2", "default")))
#endif

/* What a loop writes is what it reads, element for element, or does not touch it. */
#if defined(__clang__)
#define DS_NO_OVERLAP _Pragma("clang loop vectorize(assume_safety)")
#else
#define DS_NO_OVERLAP _Pragma("GCC ivdep")
#endif

#endif
