// The tile of quant.h, NibbleDot, from what an instruction set has for it. Include it in one file per instruction set
// only, inside an unnamed namespace: nothing of it may be shared between them.
//
// Codes count with 8 added, 0 to 15, and are the unsigned side of the dot product; bytes of A are the signed one, so
// that without VNNI sums of two products fit 16 bits, and those of `chunk` words too. The sums of a group start at
// what takes the 8 off again.
//
// `I` has: rows, columns of a vector and vectors of a tile; types Sums (of 32 bits), Words, Codes (as bytes) and Quad; fill,
// load, quad, plus, finish; codes<odd>(words) for the even or the odd k of a word, keep and kept to store and load them; and
// add(sums, codes, quad). Where `chunk` is not 0, add works on Short sums from `none` on, which `widen` turns into Sums.
// Where `pairs`, there is add_pair, which does that for two vectors with the same quad.
//
// With many rows a panel is opened first: each word becomes two of bytes, which is more than a third of a tile's instructions otherwise.
constexpr int64_t kWordsAhead = 64;  // for which scales are fetched before they are needed

template <class I>
void open_nibbles(const char* b, int64_t words, char* to) {
  constexpr int step = I::columns * 4;
  for (; words > 0; --words, b += kCodePanel * 4, to += kOpenWord) {
#pragma GCC unroll 4
    for (int at = 0; at < kCodePanel * 4; at += step) {
      const typename I::Words w = I::load(b + at);
      I::keep(I::template codes<0>(w), to + at);
      I::keep(I::template codes<1>(w), to + kOpenWord / 2 + at);
    }
  }
}

template <class I, int R, bool open>
void nibble_tile(const NibbleArgs& t) {
  constexpr bool few = R <= kDigits && !open;  // memory is the limit
  constexpr int W = I::columns, N = few ? kCodePanel / W : I::vectors;
  constexpr int parts = R == 1 && !open ? 2 : 1;  // one row has few independent sums
  constexpr int abreast = few ? 1 : N;  // vectors whose codes are in registers
  constexpr int64_t word_bytes = open ? kOpenWord : kCodePanel * 4;
  // Scales of the groups some words ahead, at the end those of the panel that follows.
  const int64_t ahead = (kWordsAhead + t.group_words - 1) / t.group_words;
  const int64_t groups = (t.words + t.group_words - 1) / t.group_words;
  int64_t until_next = groups > ahead ? groups - ahead : 1;
  const float* soon = t.scales + (groups > ahead ? ahead * t.scale_group : 0);
  for (int col = 0; col < kCodePanel; col += N * W) {
    const char* a = t.a;
    const char* b = t.b + col * 4;
    const char* next = t.next;
    const float* a_scales = t.a_scales;
    const int32_t* a_sums = t.a_sums;
    const float* scales = t.scales + col;
    // Adds the products of the next words.
    const auto multiply = [&](auto* sums, int64_t words) __attribute__((always_inline)) {
      for (; words > 0; --words, a += 8 * R, b += word_bytes) {
        if (few && t.ahead != 0) {
#pragma GCC unroll 4
          for (int v = 0; v < N; v += 16 / W) __builtin_prefetch(b + t.ahead + v * W * 4, 0, 2);
        }
        if (open && col == 0) {
          __builtin_prefetch(next, 0, 2);
          next += t.next_step;
        }
        typename I::Words w[N];
        if constexpr (!open) {
#pragma GCC unroll 4
          for (int v = 0; v < N; ++v) w[v] = I::load(b + v * W * 4);
        }
        const auto add = [&](auto odd, auto* to) __attribute__((always_inline)) {
          constexpr int half = decltype(odd)::value;
#pragma GCC unroll 4
          for (int first = 0; first < N; first += abreast) {
            typename I::Codes codes[abreast];
#pragma GCC unroll 4
            for (int u = 0; u < abreast; ++u) {
              if constexpr (open) {
                codes[u] = I::kept(b + half * (kOpenWord / 2) + (first + u) * W * 4);
              } else {
                codes[u] = I::template codes<half>(w[first + u]);
              }
            }
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) {
              const typename I::Quad x = I::quad(a + 4 * (half * R + i));
              if constexpr (I::pairs && abreast == 2) {
                I::add_pair(&to[i * N + first], codes, x);
              } else {
#pragma GCC unroll 4
                for (int u = 0; u < abreast; ++u) I::add(&to[i * N + first + u], codes[u], x);
              }
            }
          }
        };
        add(std::integral_constant<int, 0>(), sums);
        add(std::integral_constant<int, 1>(), sums + (parts - 1) * R * N);
      }
    };
    for (int64_t left = t.words; left > 0; left -= t.group_words) {
      const int64_t words = left < t.group_words ? left : t.group_words;
      if constexpr (few) {  // a step of memory away from each other, so that the processor does not foresee them
#pragma GCC unroll 4
        for (int v = 0; v < N; v += 16 / W) __builtin_prefetch(soon + v * W);
        soon += t.scale_group;
        if (--until_next == 0) soon = t.scales_after;
      }
      typename I::Sums sum[parts * R * N];
#pragma GCC unroll 16
      for (int i = 0; i < parts * R; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) sum[i * N + v] = I::fill(i < R ? a_sums[i] : 0);
      }
      if constexpr (I::chunk == 0) {
        multiply(sum, words);
      } else {
        for (int64_t done = 0; done < words; done += I::chunk) {
          typename I::Short part[parts * R * N];
#pragma GCC unroll 64
          for (int i = 0; i < parts * R * N; ++i) part[i] = I::none();
          multiply(part, words - done < I::chunk ? words - done : I::chunk);
#pragma GCC unroll 64
          for (int i = 0; i < parts * R * N; ++i) sum[i] = I::plus(sum[i], I::widen(part[i]));
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) {
          if (parts > 1) sum[i * N + v] = I::plus(sum[i * N + v], sum[(R + i) * N + v]);
          I::finish(sum[i * N + v], a_scales[i], scales + v * W, t.c + i * kCodePanel + col + v * W, left == t.words);
        }
      }
      a_scales += R;
      a_sums += R;
      scales += t.scale_group;
    }
  }
}

template <class I, int... R>
constexpr NibbleDot make_nibble_dot(std::integer_sequence<int, R...>) {
  return {I::rows, {nullptr, &nibble_tile<I, R + 1, false>...}, {nullptr, &nibble_tile<I, R + 1, true>...}, open_nibbles<I>};
}

template <class I>
constexpr NibbleDot make_nibble_dot() {
  return make_nibble_dot<I>(std::make_integer_sequence<int, I::rows>());
}
