// The kernels for AVX-512 F, DQ, BW and VL; compiled with their flags and called only where the machine has them.
#if defined(__x86_64__)
#define ADPFL_LANES 16
#define ADPFL_LANES_NAME "avx512"
#define ADPFL_LANES_TABLE kAvx512Lanes
#include "lanes_kernels.h"
#endif
