// What the calls of a runner read: runner.cpp has the commands.
#pragma once

#include <stdint.h>

#include <string>

namespace runner {

std::string next_word();
int64_t next_integer();
double next_double();
char* next_buffer();  // null where its place is -1

template <typename T>
T* next_pointer() {
  return reinterpret_cast<T*>(next_buffer());
}

// Each program has its own: runner_kernels.cpp, runner_companion.cpp. The launch's status.
int call(const std::string& name);

[[noreturn]] void refuse(const std::string& what);

}  // namespace runner
