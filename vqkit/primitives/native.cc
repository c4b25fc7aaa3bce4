// Fake-quantization per tensor in one pass and in place: where nobody else reads a tensor its memory is used
// again, which TensorFlow's own quantize operations never do. And the errors that many positions make, in one
// reading of a tensor.
//
// The arithmetic is defined in affine.py; these kernels compute the same float32 values.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"

// TensorFlow does not start on a processor without AVX.
#ifdef __x86_64__
#define VECTORIZED __attribute__((target("avx")))
#else
#define VECTORIZED
#endif

namespace {

namespace tf = tensorflow;
using std::int64_t;

// Fewer values than these are not worth waking another thread for.
constexpr int64_t kPiece = 1 << 19;

// As many squares as float32 adds, in lanes, before their sum is kept in double.
constexpr int64_t kBlock = 1 << 12;
constexpr int64_t kLanes = 16;

enum class Rounding { kHalfToEven, kHalfUp, kHalfAwayFromZero };

template <Rounding rounding>
VECTORIZED inline float Round(float v) {
  if (rounding == Rounding::kHalfToEven) return std::rint(v);
  if (rounding == Rounding::kHalfUp) return std::floor(v + 0.5f);
  const float below = std::floor(v);
  const float away = v > 0.0f ? below + 1.0f : below;
  return v - below == 0.5f ? away : std::rint(v);
}

// NaN stays NaN: each comparison with it is false. On a grid that begins at 0 there is no -0.
VECTORIZED inline float Clip(float v, float low, float high) {
  v = v > high ? high : v;
  return v <= low ? low : v;
}

template <Rounding rounding>
VECTORIZED inline float Code(float v, float s, float low, float high) {
  return Clip(Round<rounding>(v * s), low, high);
}

// A power of two has an exact reciprocal; dividing by any other s rounds once.
template <Rounding rounding, bool power_of_two>
VECTORIZED void Quantize(const float* x, float* y, int64_t n, float s, float low, float high) {
  const float step = 1.0f / s;
  for (int64_t i = 0; i < n; ++i) {
    const float code = Code<rounding>(x[i], s, low, high);
    y[i] = power_of_two ? code * step : code / s;
  }
}

// Sum of squares of what a power of two loses.
template <Rounding rounding>
VECTORIZED double SquaredError(const float* x, int64_t n, float s, float low, float high) {
  const float step = 1.0f / s;
  float lanes[kLanes] = {};
  const int64_t whole = n - n % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const float lost = x[i + j] - Code<rounding>(x[i + j], s, low, high) * step;
      lanes[j] += lost * lost;
    }
  }
  double sum = 0;
  for (int64_t i = whole; i < n; ++i) {
    const float lost = x[i] - Code<rounding>(x[i], s, low, high) * step;
    sum += lost * lost;
  }
  for (const float lane : lanes) sum += lane;
  return sum;
}

struct Loops {
  decltype(&Quantize<Rounding::kHalfUp, true>) on_power_of_two, on_any_scale;
  decltype(&SquaredError<Rounding::kHalfUp>) squared_error;
};

template <Rounding rounding>
Loops LoopsOf() {
  return {Quantize<rounding, true>, Quantize<rounding, false>, SquaredError<rounding>};
}

// The grid that an operation's attributes name.
struct Grid {
  explicit Grid(tf::OpKernelConstruction* c) {
    std::string rounding;
    OP_REQUIRES_OK(c, c->GetAttr("low", &low));
    OP_REQUIRES_OK(c, c->GetAttr("high", &high));
    OP_REQUIRES_OK(c, c->GetAttr("rounding", &rounding));
    loops = rounding == "half_to_even" ? LoopsOf<Rounding::kHalfToEven>()
            : rounding == "half_up"    ? LoopsOf<Rounding::kHalfUp>()
                                       : LoopsOf<Rounding::kHalfAwayFromZero>();
  }
  float low = 0, high = 0;
  Loops loops = {};
};

float PowerOfTwo(float position) { return std::ldexp(1.0f, static_cast<int>(position)); }

// work(begin, end) on as many threads as are worth waking.
template <typename Work>
void Shared(tf::OpKernelContext* c, int64_t n, int64_t cost, const Work& work) {
  const auto* workers = c->device()->tensorflow_cpu_worker_threads();
  const int64_t pieces = std::min<int64_t>(workers->num_threads, n * cost / kPiece);
  if (pieces < 2) {
    work(0, n);
  } else {
    tf::Shard(static_cast<int>(pieces), workers->workers, n, 100 * cost, work);
  }
}

// loop(from, to, n) over the values of the first input, into the input's own memory where that is allowed.
template <typename Loop>
void InPlace(tf::OpKernelContext* c, const Loop& loop) {
  const tf::Tensor& x = c->input(0);
  tf::Tensor* y = nullptr;
  OP_REQUIRES_OK(c, c->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
  const float* from = x.flat<float>().data();
  float* to = y->flat<float>().data();
  Shared(c, x.NumElements(), 1,
         [&](int64_t begin, int64_t end) { loop(from + begin, to + begin, end - begin); });
}

// What a range without width gives.
void Zeros(tf::OpKernelContext* c) {
  InPlace(c, [](const float*, float* to, int64_t n) { std::fill_n(to, n, 0.0f); });
}

class FakeQuantize : public tf::OpKernel {
 public:
  explicit FakeQuantize(tf::OpKernelConstruction* c) : OpKernel(c), grid_(c) {
    OP_REQUIRES_OK(c, c->GetAttr("power_of_two", &power_of_two_));
  }

  void Compute(tf::OpKernelContext* c) override {
    const float number = c->input(1).scalar<float>()();
    const float s = power_of_two_ ? PowerOfTwo(number) : number;
    if (!std::isfinite(s)) return Zeros(c);
    const auto loop = power_of_two_ ? grid_.loops.on_power_of_two : grid_.loops.on_any_scale;
    InPlace(c, [&](const float* from, float* to, int64_t n) { loop(from, to, n, s, grid_.low, grid_.high); });
  }

 private:
  Grid grid_;
  bool power_of_two_ = false;
};

class SquaredErrors : public tf::OpKernel {
 public:
  explicit SquaredErrors(tf::OpKernelConstruction* c) : OpKernel(c), grid_(c) {}

  void Compute(tf::OpKernelContext* c) override {
    const float* x = c->input(0).flat<float>().data();
    const int64_t n = c->input(0).NumElements(), blocks = (n + kBlock - 1) / kBlock;
    const auto positions = c->input(1).vec<float>();
    const int64_t candidates = positions.size();
    tf::Tensor* sums = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, c->input(1).shape(), &sums));
    // The sums of blocks are added in order, so that the result does not depend on the number of threads.
    std::vector<double> parts(blocks * candidates);
    Shared(c, blocks, kBlock * candidates, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t at = block * kBlock, size = std::min(kBlock, n - at);
        for (int64_t i = 0; i < candidates; ++i) {
          parts[block * candidates + i] =
              grid_.loops.squared_error(x + at, size, PowerOfTwo(positions(i)), grid_.low, grid_.high);
        }
      }
    });
    auto sum = sums->vec<double>();
    sum.setZero();
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t i = 0; i < candidates; ++i) sum(i) += parts[block * candidates + i];
    }
  }

 private:
  Grid grid_;
};

// What TensorFlow's FakeQuantWithMinMaxVars computes, in its order of operations.
VECTORIZED void FrameworkQuantize(const float* x, float* y, int64_t n, float nudged_min, float nudged_max,
                                  float step, float code_of_zero) {
  for (int64_t i = 0; i < n; ++i) {
    const float above = Clip(x[i], nudged_min, nudged_max) - nudged_min;
    y[i] = std::floor(above / step - code_of_zero + 0.5f) * step;
  }
}

class FrameworkFakeQuantize : public tf::OpKernel {
 public:
  explicit FrameworkFakeQuantize(tf::OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("low", &low_));
    OP_REQUIRES_OK(c, c->GetAttr("high", &high_));
  }

  void Compute(tf::OpKernelContext* c) override {
    const float f_min = c->input(1).scalar<float>()(), f_max = c->input(2).scalar<float>()();
    tf::Tensor *low = nullptr, *high = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(1, {}, &low));
    OP_REQUIRES_OK(c, c->allocate_output(2, {}, &high));
    if (f_min == 0.0f && f_max == 0.0f) {
      low->scalar<float>()() = -std::numeric_limits<float>::infinity();
      high->scalar<float>()() = std::numeric_limits<float>::infinity();
      return Zeros(c);
    }
    const float step = (f_max - f_min) / (high_ - low_), s = (high_ - low_) / (f_max - f_min);
    const float zero = Clip(std::floor(low_ - f_min / step + 0.5f), low_, high_);
    const float nudged_min = (low_ - zero) * step, nudged_max = (high_ - zero) * step;
    const float code_of_zero = std::floor(-nudged_min * s + 0.5f);
    low->scalar<float>()() = nudged_min;
    high->scalar<float>()() = nudged_max;
    InPlace(c, [&](const float* from, float* to, int64_t n) {
      FrameworkQuantize(from, to, n, nudged_min, nudged_max, step, code_of_zero);
    });
  }

 private:
  float low_ = 0, high_ = 0;
};

absl::Status AsTheFirst(tf::shape_inference::InferenceContext* c) {
  tf::shape_inference::ShapeHandle scalar;
  for (int i = 1; i < c->num_inputs(); ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
  c->set_output(0, c->input(0));
  for (int i = 1; i < c->num_outputs(); ++i) c->set_output(i, c->Scalar());
  return absl::OkStatus();
}

absl::Status AsThePositions(tf::shape_inference::InferenceContext* c) {
  tf::shape_inference::ShapeHandle positions;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &positions));
  c->set_output(0, positions);
  return absl::OkStatus();
}

REGISTER_OP("VqkitFakeQuantize")
    .Input("x: float")
    .Input("position_or_scale: float")
    .Attr("low: float")
    .Attr("high: float")
    .Attr("rounding: {'half_to_even', 'half_up', 'half_away_from_zero'}")
    .Attr("power_of_two: bool")
    .Output("values: float")
    .SetShapeFn(AsTheFirst);

REGISTER_OP("VqkitFrameworkFakeQuantize")
    .Input("x: float")
    .Input("f_min: float")
    .Input("f_max: float")
    .Attr("low: float")
    .Attr("high: float")
    .Output("values: float")
    .Output("nudged_min: float")
    .Output("nudged_max: float")
    .SetShapeFn(AsTheFirst);

REGISTER_OP("VqkitSquaredErrors")
    .Input("x: float")
    .Input("positions: float")
    .Attr("low: float")
    .Attr("high: float")
    .Attr("rounding: {'half_to_even', 'half_up', 'half_away_from_zero'}")
    .Output("sums: double")
    .SetShapeFn(AsThePositions);

REGISTER_KERNEL_BUILDER(Name("VqkitFakeQuantize").Device(tf::DEVICE_CPU), FakeQuantize);
REGISTER_KERNEL_BUILDER(Name("VqkitFrameworkFakeQuantize").Device(tf::DEVICE_CPU), FrameworkFakeQuantize);
REGISTER_KERNEL_BUILDER(Name("VqkitSquaredErrors").Device(tf::DEVICE_CPU), SquaredErrors);

}  // namespace
