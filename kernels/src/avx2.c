/* AVX2 and FMA (x86-64-v3): compiled with -march=x86-64-v3. */
#define LANES 8
#define KERNELS vk_kernels_avx2
#include "instruction_set.h"
