// The runner's calls of companion/companion.cu.
#include "runner.h"

extern "C" {
int companion_reverse(const uint32_t* numbers, uint32_t* reversed, int64_t blocks);
int companion_sum(const uint32_t* numbers, uint32_t* partials, uint32_t* ticket, uint32_t* sum, int64_t blocks);
}

namespace runner {

int call(const std::string& name) {
  if (name != "reverse" && name != "sum") refuse("no call " + name);
  const uint32_t* numbers = next_pointer<uint32_t>();
  if (name == "reverse") {
    uint32_t* reversed = next_pointer<uint32_t>();
    return companion_reverse(numbers, reversed, next_integer());
  }
  uint32_t* partials = next_pointer<uint32_t>();
  uint32_t* ticket = next_pointer<uint32_t>();
  uint32_t* sum = next_pointer<uint32_t>();
  return companion_sum(numbers, partials, ticket, sum, next_integer());
}

}  // namespace runner
