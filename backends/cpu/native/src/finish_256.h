// Sums of a tile to results, of columns from `col` on, of N vectors of 256 bits; `bytes` as in quant.h, Dot. Include it in one
// file per instruction set only, inside an unnamed namespace: nothing of it may be shared between them.
template <bool bytes, int R, int N>
__attribute__((always_inline)) inline void finish(const DotFinish& f, int col, __m256i (&sum)[R][N]) {
#pragma GCC unroll 4
  for (int v = 0; v < N; ++v, col += 8) {
    const __m256 scales = _mm256_loadu_ps(f.scales + col);
    const __m256 bias = f.bias != nullptr ? _mm256_loadu_ps(f.bias + col) : _mm256_setzero_ps();
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      __m256i whole = sum[i][v];
      if (bytes) whole = _mm256_sub_epi32(whole, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(f.offsets + col)));
      const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(f.row_scales[i]), scales);
      __m256 y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scale, bias);
      if (f.residual != nullptr) y = _mm256_add_ps(y, _mm256_loadu_ps(f.residual + i * f.ldr + col));
      _mm256_storeu_ps(f.c + i * f.ldc + col, y);
    }
  }
}
