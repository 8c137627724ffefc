// The runner's calls of the project's own launchers. A list of tensors is UNITS DIMENSION CHUNKS COUNT, and for each
// BUFFER STRIDE ELEMENTS FIRST_INDEX FIRST_CHUNK TYPE; the other arguments are harness.cpp's.
#include <vector>

#include "dp_release.h"
#include "runner.h"

using namespace adpfl;

extern "C" {
int emulation_unit_norms(const UnitTensor* tensors, int64_t count, int64_t units, int64_t dimension, int64_t chunks,
                         int order, double* partials, double* norms);
int emulation_clip_factors(const double* norms, int64_t units, const double* window, int64_t window_size,
                           const int64_t* ranks, double clip_norm, double min_clip_norm, int64_t sensitivity,
                           double* factors, double* clip_used, int64_t* counts);
int emulation_sum_and_release(const UnitTensor* tensors, int64_t count, int64_t units, int64_t dimension,
                              int64_t chunks, const double* factors, const int64_t* total_in, int64_t* total_out,
                              float* noised, const uint32_t* tables, int scale_bits, int gaussian, int64_t* keystream,
                              const double* clip_used, int64_t sensitivity);
}

namespace runner {
namespace {

struct Table {
  int64_t units, dimension, chunks;
  std::vector<UnitTensor> tensors;

  int64_t count() const { return static_cast<int64_t>(tensors.size()); }
};

// Members of a braced list are read in its order, which the order of a call's arguments is not.
Table next_table() {
  Table table = {next_integer(), next_integer(), next_integer(), {}};
  for (int64_t left = next_integer(); left > 0; --left) {
    table.tensors.push_back({next_buffer(), next_integer(), next_integer(), next_integer(), next_integer(),
                             static_cast<ScalarType>(next_integer())});
  }
  return table;
}

int call_unit_norms() {
  const Table table = next_table();
  const int order = static_cast<int>(next_integer());
  double* partials = next_pointer<double>();
  double* norms = next_pointer<double>();
  return emulation_unit_norms(table.tensors.data(), table.count(), table.units, table.dimension, table.chunks, order,
                              partials, norms);
}

int call_clip_factors() {
  const double* norms = next_pointer<double>();
  const int64_t units = next_integer();
  const double* window = next_pointer<double>();
  const int64_t window_size = next_integer();
  const int64_t* ranks = next_pointer<int64_t>();
  const double clip_norm = next_double();
  const double min_clip_norm = next_double();
  const int64_t sensitivity = next_integer();
  double* factors = next_pointer<double>();
  double* clip_used = next_pointer<double>();
  int64_t* counts = next_pointer<int64_t>();
  return emulation_clip_factors(norms, units, window, window_size, ranks, clip_norm, min_clip_norm, sensitivity,
                                factors, clip_used, counts);
}

int call_sum_and_release() {
  const Table table = next_table();
  const double* factors = next_pointer<double>();
  const int64_t* total_in = next_pointer<int64_t>();
  int64_t* total_out = next_pointer<int64_t>();
  float* noised = next_pointer<float>();
  const uint32_t* tables = next_pointer<uint32_t>();
  const int scale_bits = static_cast<int>(next_integer());
  const int gaussian = static_cast<int>(next_integer());
  int64_t* keystream = next_pointer<int64_t>();
  const double* clip_used = next_pointer<double>();
  const int64_t sensitivity = next_integer();
  return emulation_sum_and_release(table.tensors.data(), table.count(), table.units, table.dimension, table.chunks,
                                   factors, total_in, total_out, noised, tables, scale_bits, gaussian, keystream,
                                   clip_used, sensitivity);
}

}  // namespace

int call(const std::string& name) {
  if (name == "unit_norms") return call_unit_norms();
  if (name == "clip_factors") return call_clip_factors();
  if (name == "sum_and_release") return call_sum_and_release();
  refuse("no call " + name);
}

}  // namespace runner
