// The kernels for AVX2 with FMA and F16C; compiled with their flags and called only where the machine has them.
#if defined(__x86_64__)
#define ADPFL_LANES 8
#define ADPFL_LANES_NAME "avx2"
#define ADPFL_LANES_TABLE kAvx2Lanes
#include "lanes_kernels.h"
#endif
