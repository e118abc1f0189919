/* Vector extensions of GCC and Clang, on the instructions that every processor of the architecture has. */
#define LANES 4
#define KERNELS vk_kernels_portable
#include "instruction_set.h"
