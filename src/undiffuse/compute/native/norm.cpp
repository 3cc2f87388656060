// Group norm and SiLU in one pass over feature maps with channels last in memory (NHWC).
//
//   z = weight_c (x + shift_c - mean_g) / sqrt(variance_g + eps) + bias_c,   y = z or SiLU(z) = z / (1 + exp(-z))
//
// for each sample (row), with mean and variance over the pixels and channels of a group. Maps are float32 or bfloat16,
// intermediate values are float32 (except that the gradient through SiLU is rounded once to the maps' type); sums are
// float32 within a block of pixels and float64 across blocks. The kernels are single-threaded: threads are used for
// parts of the batch.
//
// Channels are processed sixteen at a time with the portable vector extensions of GCC and Clang, and the remaining ones
// one by one: F is a vector or a float in every template below.

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 64;   // pixels per block, summed in float32; a block fits into the cache
constexpr int64_t kOrigin = 16;  // pixels whose mean is the origin of a channel's sums

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
inline To as(From value) {
  static_assert(sizeof(To) == sizeof(From), "only the type changes");
  To same;
  std::memcpy(&same, &value, sizeof same);
  return same;
}

template <class F>
struct Bits;
template <>
struct Bits<float> {
  using Word = uint32_t;
};
template <>
struct Bits<Floats> {
  using Word = Words;
};

// Load and store F values.

template <class F>
inline F load(const float* from) {
  F value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class F>
inline F load(const BFloat16* from);
template <>
inline float load<float>(const BFloat16* from) {
  return as<float>(uint32_t(from->bits) << 16);
}
template <>
inline Floats load<Floats>(const BFloat16* from) {
#ifdef __AVX512BF16__
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return as<Floats>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
#else
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return as<Floats>(__builtin_convertvector(halves, Words) << 16);
#endif
}

template <class F>
inline void store(F value, float* to) {
  std::memcpy(to, &value, sizeof value);
}

// To the nearest bfloat16, ties to even; NaN stays NaN.
template <class Word>
inline Word rounded(Word bits) {
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
inline void store(float value, BFloat16* to) {
  to->bits = value != value ? 0x7fc0u : uint16_t(rounded(as<uint32_t>(value)));
}
inline void store(Floats value, BFloat16* to) {
#ifdef __AVX512BF16__  // one instruction, which flushes denormals (below 2^-126) to zero
  const __m256bh halves = _mm512_cvtneps_pbh(as<__m512>(value));
#else
  const Words unordered = as<Words>(value != value);  // all bits set where it is NaN
  const Words bits = (rounded(as<Words>(value)) & ~unordered) | (0x7fc0u & unordered);
  const Halves halves = __builtin_convertvector(bits, Halves);
#endif
  std::memcpy(to, &halves, sizeof halves);
}

// exp with a relative error below 2e-7: 2^k times the Taylor polynomial of the remainder, which is at most ln(2) / 2.
template <class F>
inline F exponential(F x) {
  using Word = typename Bits<F>::Word;
  constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  constexpr float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  x = x > 88.0f ? F{} + 88.0f : x;
  x = x < -87.0f ? F{} - 87.0f : x;
  const F shifted = x * log2_e + to_integer;
  const F k = shifted - to_integer;
  const F r = (x - k * ln2_high) - k * ln2_low;
  F p = r * (1.0f / 720.0f) + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Word exponent = (as<Word>(shifted) - 0x4b400000u + 127u) << 23;
  return p * as<F>(exponent);
}

template <class F>
inline F sigmoid(F z) {
  return 1.0f / (1.0f + exponential(-z));
}

struct Shape {
  int64_t rows, pixels, channels, groups;
  int64_t in_group() const { return channels / groups; }
  double count() const { return double(pixels) * double(in_group()); }
};

// Parameters of one norm. `shift` may be null; weight and bias are (channels) or, with `per_sample` set, (rows, channels).
struct Norm {
  const float *weight, *bias, *shift;
  bool per_sample;
  float eps;
  const float* weight_of(int64_t row, int64_t channels) const { return weight + (per_sample ? row * channels : 0); }
  const float* bias_of(int64_t row, int64_t channels) const { return bias + (per_sample ? row * channels : 0); }
  float shift_of(int64_t row, int64_t channels, int64_t c) const { return shift ? shift[row * channels + c] : 0.0f; }
};

// Calls work(c, F{}) for all channels, as many at a time as F has lanes.
template <class Work>
void over_channels(int64_t channels, const Work& work) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) work(c, Floats{});
  for (; c < channels; ++c) work(c, 0.0f);
}

// Calls work(first, last, c, F{}) for all pixels and channels, by blocks of pixels.
template <class Work>
void over_blocks(const Shape& shape, const Work& work) {
  for (int64_t first = 0; first < shape.pixels; first += kBlock) {
    const int64_t last = std::min(shape.pixels, first + kBlock);
    over_channels(shape.channels, [&](int64_t c, auto none) { work(first, last, c, none); });
  }
}

// Sums of several terms over the pixels of one row, for every channel.
class Sums {
 public:
  Sums(int64_t channels, int terms) : channels_(channels), all_(channels * terms) {}
  void clear() { std::fill(all_.begin(), all_.end(), 0.0); }
  double of(int term, int64_t channel) const { return all_[term * channels_ + channel]; }
  void add(int term, int64_t channel, float part) { all_[term * channels_ + channel] += part; }
  void add(int term, int64_t channel, Floats parts) {
    for (int64_t i = 0; i < kLanes; ++i) all_[term * channels_ + channel + i] += parts[i];
  }

 private:
  int64_t channels_;
  std::vector<double> all_;
};

// Mean and 1 / sqrt(variance + eps) of each group of one row, from sums of differences to an estimate of every channel's
// mean: sums of the values would lose the variance of maps with a large mean to cancellation.
template <class T>
void statistics(const T* x, const Shape& shape, const Norm& norm, int64_t row, Sums& sums, float* guesses, float* mean,
                float* rstd) {
  const int64_t channels = shape.channels, few = std::min(shape.pixels, kOrigin);
  over_channels(channels, [&](int64_t c, auto none) {
    decltype(none) sum{};
    for (int64_t p = 0; p < few; ++p) sum += load<decltype(none)>(x + p * channels + c);
    store(sum * (1.0f / float(few)), guesses + c);
  });
  sums.clear();
  over_blocks(shape, [&](int64_t first, int64_t last, int64_t c, auto none) {
    using F = decltype(none);
    const F origin = load<F>(guesses + c);
    F even{}, odd{}, even_squares{}, odd_squares{};  // two accumulators each, for instruction-level parallelism
    int64_t p = first;
    for (; p + 1 < last; p += 2) {
      const F one = load<F>(x + p * channels + c) - origin, other = load<F>(x + (p + 1) * channels + c) - origin;
      even += one;
      odd += other;
      even_squares += one * one;
      odd_squares += other * other;
    }
    if (p < last) {
      const F one = load<F>(x + p * channels + c) - origin;
      even += one;
      even_squares += one * one;
    }
    sums.add(0, c, even + odd);
    sums.add(1, c, even_squares + odd_squares);
  });
  for (int64_t g = 0; g < shape.groups; ++g) {
    double total = 0, squares = 0;
    for (int64_t c = g * shape.in_group(); c < (g + 1) * shape.in_group(); ++c) {
      const double origin = double(guesses[c]) + norm.shift_of(row, channels, c);
      total += sums.of(0, c) + origin * double(shape.pixels);
      squares += sums.of(1, c) + origin * (2 * sums.of(0, c) + origin * double(shape.pixels));
    }
    const double centre = total / shape.count(), variance = squares / shape.count() - centre * centre;
    mean[g] = float(centre);
    rstd[g] = float(1.0 / std::sqrt((variance < 0 ? 0.0 : variance) + double(norm.eps)));
  }
}

template <class T, bool silu>
void forward_rows(const T* x, T* y, const Shape& shape, const Norm& norm, float* means, float* rstds) {
  const int64_t channels = shape.channels;
  Sums sums(channels, 2);
  std::vector<float> guesses(channels), scale(channels), offset(channels);
  for (int64_t row = 0; row < shape.rows; ++row) {
    const T* from = x + row * shape.pixels * channels;
    T* to = y + row * shape.pixels * channels;
    float *mean = means + row * shape.groups, *rstd = rstds + row * shape.groups;
    statistics(from, shape, norm, row, sums, guesses.data(), mean, rstd);
    const float *weight = norm.weight_of(row, channels), *bias = norm.bias_of(row, channels);
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t g = c / shape.in_group();
      scale[c] = weight[c] * rstd[g];
      offset[c] = bias[c] + scale[c] * (norm.shift_of(row, channels, c) - mean[g]);
    }
    over_blocks(shape, [&](int64_t first, int64_t last, int64_t c, auto none) {
      using F = decltype(none);
      const F a = load<F>(scale.data() + c), b = load<F>(offset.data() + c);
      for (int64_t p = first; p < last; ++p) {
        const F z = a * load<F>(from + p * channels + c) + b;
        store(silu ? z * sigmoid(z) : z, to + p * channels + c);
      }
    });
  }
}

// Gradients of one call, (rows, channels) each; shift may be null.
struct Gradients {
  float *weight, *bias, *shift;
};

// dz = dy, or dy SiLU'(z); with the means of weight dz and of weight dz n over a group, n being the normalised value,
//   dx = rstd (weight dz - mean(weight dz) - n mean(weight dz n)).
template <class T, bool silu>
void backward_rows(const T* x, const T* dy, T* dx, const Shape& shape, const Norm& norm, const float* means,
                   const float* rstds, const Gradients& to) {
  const int64_t channels = shape.channels;
  Sums sums(channels, 3);  // of dz, dz d, d, where d = x + shift - mean
  std::vector<float> scale(channels), centre(channels), by_x(channels), constant(channels);
  for (int64_t row = 0; row < shape.rows; ++row) {
    const T *in = x + row * shape.pixels * channels, *given = dy + row * shape.pixels * channels;
    T* out = dx + row * shape.pixels * channels;
    const float *weight = norm.weight_of(row, channels), *bias = norm.bias_of(row, channels);
    const float *mean = means + row * shape.groups, *rstd = rstds + row * shape.groups;
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t g = c / shape.in_group();
      scale[c] = weight[c] * rstd[g];
      centre[c] = mean[g] - norm.shift_of(row, channels, c);
    }
    sums.clear();
    over_blocks(shape, [&](int64_t first, int64_t last, int64_t c, auto none) {
      using F = decltype(none);
      const F a = load<F>(scale.data() + c), b = load<F>(bias + c), m = load<F>(centre.data() + c);
      F of_dz{}, of_both{}, of_d{};
      for (int64_t p = first; p < last; ++p) {
        const F d = load<F>(in + p * channels + c) - m;
        F dz = load<F>(given + p * channels + c);
        if constexpr (silu) {
          const F z = a * d + b, s = sigmoid(z);
          dz *= s * (1.0f + z * (1.0f - s));
          store(dz, out + p * channels + c);  // overwritten by dx below
        }
        of_dz += dz;
        of_both += dz * d;
        of_d += d;
      }
      sums.add(0, c, of_dz);
      sums.add(1, c, of_both);
      sums.add(2, c, of_d);
    });
    for (int64_t g = 0; g < shape.groups; ++g) {
      const int64_t start = g * shape.in_group(), end = start + shape.in_group();
      double mean_dz = 0, mean_both = 0;
      for (int64_t c = start; c < end; ++c) {
        to.bias[row * channels + c] = float(sums.of(0, c));
        to.weight[row * channels + c] = float(rstd[g] * sums.of(1, c));
        mean_dz += weight[c] * sums.of(0, c) / shape.count();
        mean_both += weight[c] * rstd[g] * sums.of(1, c) / shape.count();
      }
      const double of_d = -double(rstd[g]) * rstd[g] * mean_both, of_one = -double(rstd[g]) * mean_dz;
      for (int64_t c = start; c < end; ++c) {
        by_x[c] = float(of_d);
        constant[c] = float(of_one - of_d * centre[c]);
        if (to.shift)
          to.shift[row * channels + c] =
              float(scale[c] * sums.of(0, c) + of_d * sums.of(2, c) + of_one * double(shape.pixels));
      }
    }
    const T* gradient = silu ? out : given;
    over_blocks(shape, [&](int64_t first, int64_t last, int64_t c, auto none) {
      using F = decltype(none);
      const F u = load<F>(scale.data() + c), v = load<F>(by_x.data() + c), w = load<F>(constant.data() + c);
      for (int64_t p = first; p < last; ++p) {
        const int64_t at = p * channels + c;
        store(u * load<F>(gradient + at) + v * load<F>(in + at) + w, out + at);
      }
    });
  }
}

template <class T>
void forward(const void* x, void* y, const Shape& shape, const Norm& norm, bool silu, float* mean, float* rstd) {
  const auto rows = silu ? forward_rows<T, true> : forward_rows<T, false>;
  rows(static_cast<const T*>(x), static_cast<T*>(y), shape, norm, mean, rstd);
}

template <class T>
void backward(const void* x, const void* dy, void* dx, const Shape& shape, const Norm& norm, bool silu,
              const float* mean, const float* rstd, const Gradients& to) {
  const auto rows = silu ? backward_rows<T, true> : backward_rows<T, false>;
  rows(static_cast<const T*>(x), static_cast<const T*>(dy), static_cast<T*>(dx), shape, norm, mean, rstd, to);
}

}  // namespace

extern "C" {

// shape: rows, pixels, channels, groups. kind: 1 bfloat16 maps, 2 SiLU, 4 a weight and a bias per sample.
void norm_forward(const void* x, void* y, const int64_t* shape, const float* weight, const float* bias,
                  const float* shift, float eps, int64_t kind, float* mean, float* rstd) {
  const Shape of{shape[0], shape[1], shape[2], shape[3]};
  const Norm norm{weight, bias, shift, (kind & 4) != 0, eps};
  (kind & 1 ? forward<BFloat16> : forward<float>)(x, y, of, norm, (kind & 2) != 0, mean, rstd);
}

void norm_backward(const void* x, const void* dy, void* dx, const int64_t* shape, const float* weight,
                   const float* bias, const float* shift, int64_t kind, const float* mean, const float* rstd,
                   float* to_weight, float* to_bias, float* to_shift) {
  const Shape of{shape[0], shape[1], shape[2], shape[3]};
  const Norm norm{weight, bias, shift, (kind & 4) != 0, 0.0f};
  const Gradients to{to_weight, to_bias, to_shift};
  (kind & 1 ? backward<BFloat16> : backward<float>)(x, dy, dx, of, norm, (kind & 2) != 0, mean, rstd, to);
}

}  // extern "C"
