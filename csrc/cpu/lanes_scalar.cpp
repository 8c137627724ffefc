// The kernels for any machine: four 32-bit lanes, whatever the compiler makes of them.
#define ADPFL_LANES 4
#define ADPFL_LANES_NAME "scalar"
#define ADPFL_LANES_TABLE kScalarLanes
#include "lanes_kernels.h"
