/* AVX-512 (x86-64-v4): compiled with -march=x86-64-v4 -mprefer-vector-width=512. */
#define LANES 16
#define KERNELS vk_kernels_avx512
#include "instruction_set.h"
