/* blas.h - where sgemm comes from: OpenBLAS if it can be opened and multiplies correctly. */
#ifndef KERNELS_BLAS_H
#define KERNELS_BLAS_H

/* cblas_sgemm's own constants */
enum blas_order { BLAS_ROW_MAJOR = 101 };
enum blas_transpose { BLAS_PLAIN = 111, BLAS_TRANSPOSED = 112 };

typedef void (*blas_sgemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                           const float *a, int lda, const float *b, int ldb, float beta, float *c,
                           int ldc);

/* local, any thread: the library's sgemm, NULL if the own kernel has to do it. The first call of the
 * process loads and tests. The caller sets one OpenMP thread around it: OpenBLAS then works alone
 * on the calling thread and may be called from several at once. */
blas_sgemm kernel_blas_sgemm(void);

#endif
