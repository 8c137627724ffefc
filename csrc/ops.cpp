// The operators' binding to torch through LibTorch's stable ABI: one library serves every torch from 2.10 on.
// No arithmetic here. Schemas and meanings are in adpfl/kernels/operators.py, which defines the operators; this
// file gives them their CPU and CUDA kernels, checks what would make a kernel read or write astray, and says no
// before anything is written.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <string.h>

#include "dp_release.h"

#if defined(ADPFL_CUDA_ARCHITECTURES)
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

// Part of the stable ABI from torch 2.13 on; null where an older torch is loaded.
extern "C" __attribute__((weak)) AOTITorchError torch_stream_native_handle(StreamHandle stream, void** native);
#endif

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// ---- Checks -----------------------------------------------------------------------------------------------

adpfl::ScalarType gradient_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return adpfl::ScalarType::kFloat32;
    case ScalarType::BFloat16:
      return adpfl::ScalarType::kBFloat16;
    case ScalarType::Half:
      return adpfl::ScalarType::kFloat16;
    default:
      throw std::runtime_error("gradients must be float32, bfloat16 or float16");
  }
}

void check_vector(const char* name, const Tensor& tensor, ScalarType type, int64_t size) {
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.dim() == 1 && tensor.is_contiguous(), name,
                  " has another type, number of dimensions or layout than its operator's schema says");
  STD_TORCH_CHECK(size < 0 || tensor.size(0) == size, name, " has ", tensor.size(0), " entries; must have ", size);
}

void check_clip_norm(double clip_norm) {
  STD_TORCH_CHECK(clip_norm >= adpfl::kMinClipNorm && clip_norm <= adpfl::kMaxClipNorm, "clip_norm is ", clip_norm,
                  "; must be a normal float32");
}

void check_sensitivity(int64_t sensitivity, int64_t units) {
  STD_TORCH_CHECK(sensitivity >= 1 && sensitivity <= int64_t{1} << 40, "sensitivity is ", sensitivity,
                  "; must be 1 to 2^40");
  STD_TORCH_CHECK(units <= (int64_t{1} << 61) / sensitivity, "gradients have ", units, " units; too many for int64");
}

void check_order(int64_t order) { STD_TORCH_CHECK(order == 1 || order == 2, "order is ", order, "; must be 1 or 2"); }

adpfl::Noise noise_of(const Tensor& tables, int64_t scale_bits, bool gaussian) {
  STD_TORCH_CHECK(scale_bits == 10 || scale_bits == 20 || (scale_bits == 30 && !gaussian), "scale_bits is ",
                  scale_bits, "; must be 10, 20 or, without gaussian, 30");
  check_vector("tables", tables, ScalarType::Int, adpfl::table_words(static_cast<int>(scale_bits), gaussian));
  return {static_cast<const uint32_t*>(tables.data_ptr()), static_cast<int32_t>(scale_bits), gaussian};
}

int64_t step_of(const int64_t* keystream) {
  const int64_t step = keystream[adpfl::kStepWord];
  STD_TORCH_CHECK(step >= 0 && step < adpfl::kStepLimit, "keystream step is ", step, "; must be 0 to 2^32 - 1");
  return step;
}

// ---- Gradients --------------------------------------------------------------------------------------------

// The rows of every tensor, in place where a unit's numbers lie one after the other, else in a copy.
struct GradientList {
  explicit GradientList(const std::vector<Tensor>& gradients) {
    STD_TORCH_CHECK(!gradients.empty(), "gradients is empty; must hold at least one (B, ...) tensor");
    const int32_t device = gradients[0].get_device_index();
    int64_t dimension = 0, chunks = 0;
    for (const Tensor& gradient : gradients) {
      STD_TORCH_CHECK(gradient.dim() >= 1 && gradient.size(0) == gradients[0].size(0),
                      "gradients must have one number of units");
      STD_TORCH_CHECK(gradient.is_cuda() == gradients[0].is_cuda() && gradient.get_device_index() == device,
                      "gradients must be on one device");
      const Tensor rows = has_dense_rows(gradient) ? gradient : torch::stable::contiguous(gradient);
      int64_t elements = 1;
      for (int64_t axis = 1; axis < rows.dim(); ++axis) elements *= rows.size(axis);
      tensors.push_back({rows.data_ptr(), rows.stride(0), elements, dimension, chunks, gradient_type(rows)});
      dimension += elements;
      chunks += (elements + adpfl::kChunk - 1) / adpfl::kChunk;
      kept.push_back(rows);
    }
    list = {tensors.data(), static_cast<int64_t>(tensors.size()), gradients[0].size(0), dimension, chunks};
  }

  adpfl::Gradients list;

 private:
  static bool has_dense_rows(const Tensor& tensor) {
    int64_t expected = 1;
    for (int64_t axis = tensor.dim() - 1; axis >= 1; --axis) {
      if (tensor.size(axis) != 1 && tensor.stride(axis) != expected) return false;
      expected *= tensor.size(axis);
    }
    return true;
  }

  std::vector<adpfl::UnitTensor> tensors;
  std::vector<Tensor> kept;
};

Tensor empty_beside(const Tensor& like, int64_t size, ScalarType type) {
  return torch::stable::new_empty(like, std::vector<int64_t>{size}, type);
}

// ---- CPU --------------------------------------------------------------------------------------------------

const adpfl::Parallel kTorchThreads = {[](int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*),
                                          void* context) {
  if (count == 0) return;
  torch::stable::parallel_for(0, count, grain,
                              [&](int64_t begin, int64_t end) { body(begin, end, context); });
}};

double* doubles(const Tensor& tensor) { return static_cast<double*>(tensor.data_ptr()); }
int64_t* integers(const Tensor& tensor) { return static_cast<int64_t*>(tensor.data_ptr()); }

Tensor norms_of(const GradientList& gradients, const Tensor& like, int64_t order) {
  const adpfl::Gradients& list = gradients.list;
  Tensor norms = empty_beside(like, list.units, ScalarType::Double);
  Tensor partials = empty_beside(like, list.units * list.chunks, ScalarType::Double);
  adpfl::unit_norms_cpu(list, static_cast<int>(order), doubles(partials), doubles(norms), kTorchThreads);
  return norms;
}

Tensor unit_norms_cpu(const std::vector<Tensor>& gradients, int64_t order) {
  check_order(order);
  const GradientList list(gradients);
  return norms_of(list, gradients[0], order);
}

void run_sum_and_release(const adpfl::SumAndRelease& work) {
  STD_TORCH_CHECK(adpfl::sum_and_release_cpu(work, kTorchThreads),
                  "a coordinate of gaussian noise was rejected 256 times; nothing is released");
}

Tensor clip_accumulate_cpu(Tensor total, const std::vector<Tensor>& gradients, const Tensor& norms,
                           const Tensor& clip_norm, int64_t sensitivity) {
  const GradientList list(gradients);
  check_vector("total", total, ScalarType::Long, list.list.dimension);
  check_vector("clip_norm", clip_norm, ScalarType::Double, 1);
  const Tensor dense_norms = torch::stable::contiguous(norms);
  check_vector("norms", dense_norms, ScalarType::Double, list.list.units);
  check_sensitivity(sensitivity, list.list.units);
  const double clip = doubles(clip_norm)[0];
  check_clip_norm(clip);
  Tensor counts = empty_beside(total, 2, ScalarType::Long);
  std::vector<double> factors(list.list.units);
  adpfl::clip_factors_cpu(doubles(dense_norms), list.list.units, clip, sensitivity, factors.data(), integers(counts));
  adpfl::SumAndRelease work = {};
  work.gradients = list.list;
  work.factors = factors.data();
  work.total_in = work.total_out = integers(total);
  run_sum_and_release(work);
  return counts;
}

// Gives `work` the key and step, and the keystream its next step: from here on the old one is used up.
void take_step(adpfl::SumAndRelease& work, const Tensor& keystream, const adpfl::Noise& noise) {
  int64_t* state = integers(keystream);
  work.noise = noise;
  work.step = static_cast<uint32_t>(step_of(state));
  std::memcpy(work.key, state, sizeof(work.key));
  state[adpfl::kStepWord] += 1;
}

Tensor release_cpu(const Tensor& total, const Tensor& clip_norm, Tensor keystream, const Tensor& tables,
                   int64_t sensitivity, int64_t scale_bits, bool gaussian) {
  check_vector("total", total, ScalarType::Long, -1);
  check_vector("clip_norm", clip_norm, ScalarType::Double, 1);
  check_vector("keystream", keystream, ScalarType::Long, adpfl::kKeystreamWords);
  check_sensitivity(sensitivity, 0);
  const adpfl::Noise noise = noise_of(tables, scale_bits, gaussian);
  const double clip = doubles(clip_norm)[0];
  check_clip_norm(clip);
  Tensor noised = empty_beside(total, total.size(0), ScalarType::Float);
  adpfl::SumAndRelease work = {};
  work.gradients.dimension = total.size(0);
  work.total_in = integers(total);
  work.noised = static_cast<float*>(noised.data_ptr());
  work.release_factor = clip / (2.0 * static_cast<double>(sensitivity));
  take_step(work, keystream, noise);
  run_sum_and_release(work);
  explicit_bzero(work.key, sizeof(work.key));
  return noised;
}

// The percentile over the norms and the window, or `initial` where none is finite; never below `least`.
double threshold_of(const Tensor& norms, const std::optional<Tensor>& window, const Tensor& ranks, double initial,
                    double least) {
  const int64_t units = norms.size(0);
  Tensor earlier = window ? torch::stable::contiguous(*window) : empty_beside(norms, 0, ScalarType::Double);
  check_vector("window", earlier, ScalarType::Double, -1);
  check_vector("ranks", ranks, ScalarType::Long, units + earlier.size(0) + 1);
  for (int64_t finite = 1; finite < ranks.size(0); ++finite) {
    const int64_t rank = integers(ranks)[finite];
    STD_TORCH_CHECK(rank >= 1 && rank <= finite, "ranks[", finite, "] is ", rank, "; must be 1 to ", finite);
  }
  std::vector<double> scratch(units + earlier.size(0) + 1);
  double found = initial;
  adpfl::percentile_cpu(doubles(norms), units, doubles(earlier), earlier.size(0), integers(ranks), scratch.data(),
                        &found);
  return std::fmax(found, least);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dp_release_cpu(
    const std::vector<Tensor>& gradients, Tensor keystream, const Tensor& tables, int64_t sensitivity,
    int64_t scale_bits, bool gaussian, int64_t order, double clip_norm, const std::optional<Tensor>& ranks,
    const std::optional<Tensor>& window, double min_clip_norm, const std::optional<Tensor>& norms) {
  const GradientList list(gradients);
  check_order(order);
  check_clip_norm(clip_norm);
  check_vector("keystream", keystream, ScalarType::Long, adpfl::kKeystreamWords);
  check_sensitivity(sensitivity, list.list.units);
  const adpfl::Noise noise = noise_of(tables, scale_bits, gaussian);
  step_of(integers(keystream));
  Tensor own_norms = norms ? torch::stable::clone(torch::stable::contiguous(*norms))
                           : norms_of(list, gradients[0], order);
  check_vector("norms", own_norms, ScalarType::Double, list.list.units);
  const double clip = ranks ? threshold_of(own_norms, window, *ranks, clip_norm, min_clip_norm) : clip_norm;
  check_clip_norm(clip);
  Tensor clip_used = empty_beside(gradients[0], 1, ScalarType::Double);
  doubles(clip_used)[0] = clip;
  Tensor counts = empty_beside(gradients[0], 2, ScalarType::Long);
  Tensor noised = empty_beside(gradients[0], list.list.dimension, ScalarType::Float);
  std::vector<double> factors(list.list.units);
  adpfl::clip_factors_cpu(doubles(own_norms), list.list.units, clip, sensitivity, factors.data(), integers(counts));
  adpfl::SumAndRelease work = {};
  work.gradients = list.list;
  work.factors = factors.data();
  work.noised = static_cast<float*>(noised.data_ptr());
  work.release_factor = clip / (2.0 * static_cast<double>(sensitivity));
  take_step(work, keystream, noise);
  run_sum_and_release(work);
  explicit_bzero(work.key, sizeof(work.key));
  return {noised, clip_used, own_norms, counts};
}

#if defined(ADPFL_CUDA_ARCHITECTURES)

// ---- CUDA -------------------------------------------------------------------------------------------------
//
// Nothing here waits for the device: what the CPU kernels refuse by looking at a value (a clip norm, a step), the
// CUDA kernels answer with NaN, a count of -1 and a step that stands still.

// The current stream of a device. From torch 2.13 on the stable ABI gives it; before, torch's own CUDA library,
// which is loaded wherever there is a CUDA tensor.
void* current_stream(int32_t device) {
  void* native = nullptr;
  if (torch_stream_native_handle != nullptr) {
    StreamHandle stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_stream(device, &stream));
    const bool failed = torch_stream_native_handle(stream, &native) != AOTI_TORCH_SUCCESS;
    TORCH_ERROR_CODE_CHECK(aoti_torch_delete_stream(stream));
    STD_TORCH_CHECK(!failed, "torch gives no handle of its current CUDA stream");
    return native;
  }
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  using CurrentStream = AOTITorchError (*)(int32_t, void**);
  const auto function =
      library ? reinterpret_cast<CurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  STD_TORCH_CHECK(function && function(device, &native) == AOTI_TORCH_SUCCESS,
                  "this torch gives no current CUDA stream; torch 2.13 or later does");
  return native;
}

// The device and stream of a call.
struct Queue {
  explicit Queue(const Tensor& tensor)
      : guard(tensor.get_device_index()), stream(current_stream(tensor.get_device_index())) {}

  void check(int status) const {
    STD_TORCH_CHECK(status == cudaSuccess, "CUDA kernels: ", cudaGetErrorString(static_cast<cudaError_t>(status)));
  }

  torch::stable::accelerator::DeviceGuard guard;
  void* stream;
};

void check_beside(const char* name, const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == like.get_device_index(), name,
                  " is on another device than the first argument");
}

Tensor device_norms(const Queue& queue, const GradientList& gradients, const Tensor& like, int64_t order) {
  const adpfl::Gradients& list = gradients.list;
  Tensor norms = empty_beside(like, list.units, ScalarType::Double);
  Tensor partials = empty_beside(like, list.units * list.chunks, ScalarType::Double);
  queue.check(
      adpfl::unit_norms_cuda(list, static_cast<int>(order), doubles(partials), doubles(norms), queue.stream));
  return norms;
}

Tensor unit_norms_cuda(const std::vector<Tensor>& gradients, int64_t order) {
  check_order(order);
  const GradientList list(gradients);
  return device_norms(Queue(gradients[0]), list, gradients[0], order);
}

Tensor clip_accumulate_cuda(Tensor total, const std::vector<Tensor>& gradients, const Tensor& norms,
                            const Tensor& clip_norm, int64_t sensitivity) {
  const GradientList list(gradients);
  check_vector("total", total, ScalarType::Long, list.list.dimension);
  check_vector("clip_norm", clip_norm, ScalarType::Double, 1);
  const Tensor dense_norms = torch::stable::contiguous(norms);
  check_vector("norms", dense_norms, ScalarType::Double, list.list.units);
  check_sensitivity(sensitivity, list.list.units);
  check_beside("gradients", gradients[0], total);
  check_beside("norms", norms, total);
  check_beside("clip_norm", clip_norm, total);
  const Queue queue(total);
  Tensor counts = empty_beside(total, 2, ScalarType::Long);
  Tensor clip_used = empty_beside(total, 1, ScalarType::Double);
  Tensor factors = empty_beside(total, list.list.units, ScalarType::Double);
  adpfl::ClipWork clip = {};
  clip.norms = doubles(dense_norms), clip.units = list.list.units;
  clip.device_clip_norm = doubles(clip_norm);
  clip.sensitivity = sensitivity;
  clip.factors = doubles(factors), clip.clip_used = doubles(clip_used), clip.counts = integers(counts);
  queue.check(adpfl::clip_factors_cuda(clip, queue.stream));
  adpfl::DeviceSumAndRelease work = {};
  work.gradients = list.list;
  work.factors = doubles(factors);
  work.total_in = work.total_out = integers(total);
  queue.check(adpfl::sum_and_release_cuda(work, queue.stream));
  return counts;
}

Tensor release_cuda(const Tensor& total, const Tensor& clip_norm, Tensor keystream, const Tensor& tables,
                    int64_t sensitivity, int64_t scale_bits, bool gaussian) {
  check_vector("total", total, ScalarType::Long, -1);
  check_vector("clip_norm", clip_norm, ScalarType::Double, 1);
  check_vector("keystream", keystream, ScalarType::Long, adpfl::kKeystreamWords);
  check_sensitivity(sensitivity, 0);
  check_beside("clip_norm", clip_norm, total);
  check_beside("keystream", keystream, total);
  check_beside("tables", tables, total);
  const Queue queue(total);
  Tensor noised = empty_beside(total, total.size(0), ScalarType::Float);
  adpfl::DeviceSumAndRelease work = {};
  work.gradients.dimension = total.size(0);
  work.total_in = integers(total);
  work.noised = static_cast<float*>(noised.data_ptr());
  work.noise = noise_of(tables, scale_bits, gaussian);
  work.keystream = integers(keystream);
  work.clip_used = doubles(clip_norm);
  work.sensitivity = sensitivity;
  queue.check(adpfl::sum_and_release_cuda(work, queue.stream));
  return noised;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dp_release_cuda(
    const std::vector<Tensor>& gradients, Tensor keystream, const Tensor& tables, int64_t sensitivity,
    int64_t scale_bits, bool gaussian, int64_t order, double clip_norm, const std::optional<Tensor>& ranks,
    const std::optional<Tensor>& window, double min_clip_norm, const std::optional<Tensor>& norms) {
  const GradientList list(gradients);
  const Tensor& like = gradients[0];
  check_order(order);
  check_clip_norm(clip_norm);
  check_vector("keystream", keystream, ScalarType::Long, adpfl::kKeystreamWords);
  check_sensitivity(sensitivity, list.list.units);
  check_beside("keystream", keystream, like);
  check_beside("tables", tables, like);
  const adpfl::Noise noise = noise_of(tables, scale_bits, gaussian);
  const Queue queue(like);
  Tensor own_norms = norms ? torch::stable::clone(torch::stable::contiguous(*norms))
                           : device_norms(queue, list, like, order);
  check_vector("norms", own_norms, ScalarType::Double, list.list.units);
  check_beside("norms", own_norms, like);
  Tensor earlier = window ? torch::stable::contiguous(*window) : empty_beside(like, 0, ScalarType::Double);
  check_vector("window", earlier, ScalarType::Double, -1);
  check_beside("window", earlier, like);
  if (ranks) {
    check_vector("ranks", *ranks, ScalarType::Long, list.list.units + earlier.size(0) + 1);
    check_beside("ranks", *ranks, like);
  }
  Tensor clip_used = empty_beside(like, 1, ScalarType::Double);
  Tensor counts = empty_beside(like, 2, ScalarType::Long);
  Tensor factors = empty_beside(like, list.list.units, ScalarType::Double);
  adpfl::ClipWork clip = {};
  clip.norms = doubles(own_norms), clip.units = list.list.units;
  clip.window = doubles(earlier), clip.window_size = earlier.size(0);
  clip.ranks = ranks ? integers(*ranks) : nullptr;
  clip.clip_norm = clip_norm, clip.min_clip_norm = min_clip_norm, clip.sensitivity = sensitivity;
  clip.factors = doubles(factors), clip.clip_used = doubles(clip_used), clip.counts = integers(counts);
  queue.check(adpfl::clip_factors_cuda(clip, queue.stream));
  Tensor noised = empty_beside(like, list.list.dimension, ScalarType::Float);
  adpfl::DeviceSumAndRelease work = {};
  work.gradients = list.list;
  work.factors = doubles(factors);
  Tensor total;  // only where one launch cannot hold all tensors
  if (list.list.tensor_count > adpfl::kTensorsPerLaunch) {
    total = torch::stable::new_zeros(like, std::vector<int64_t>{list.list.dimension}, ScalarType::Long);
    work.total_in = work.total_out = integers(total);
    queue.check(adpfl::sum_and_release_cuda(work, queue.stream));
    work.gradients.units = 0;
    work.total_out = nullptr;
  }
  work.noised = static_cast<float*>(noised.data_ptr());
  work.noise = noise;
  work.keystream = integers(keystream);
  work.clip_used = doubles(clip_used);
  work.sensitivity = sensitivity;
  queue.check(adpfl::sum_and_release_cuda(work, queue.stream));
  return {noised, clip_used, own_norms, counts};
}

#endif  // ADPFL_CUDA_ARCHITECTURES

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(adpfl, CPU, library) {
  library.impl("unit_norms", TORCH_BOX(&unit_norms_cpu));
  library.impl("clip_accumulate_", TORCH_BOX(&clip_accumulate_cpu));
  library.impl("release", TORCH_BOX(&release_cpu));
  library.impl("dp_release", TORCH_BOX(&dp_release_cpu));
}

#if defined(ADPFL_CUDA_ARCHITECTURES)
STABLE_TORCH_LIBRARY_IMPL(adpfl, CUDA, library) {
  library.impl("unit_norms", TORCH_BOX(&unit_norms_cuda));
  library.impl("clip_accumulate_", TORCH_BOX(&clip_accumulate_cuda));
  library.impl("release", TORCH_BOX(&release_cuda));
  library.impl("dp_release", TORCH_BOX(&dp_release_cuda));
}

const char* adpfl_cuda_architectures(void) { return ADPFL_CUDA_ARCHITECTURES; }
#else
const char* adpfl_cuda_architectures(void) { return ""; }
#endif
