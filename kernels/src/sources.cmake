# Sources of the library, and the flags of those that are for one instruction set (x86-64 alone).
set(VK_SOURCES program.c validation.c inverted_residual.c fused_block.c stem.c classifier.c threads.c portable.c
               resize.c int8_walk.c int8_validation.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND VK_SOURCES avx2.c avx512.c int8_product.c int8_depthwise.c)
else()
  list(APPEND VK_SOURCES int8_unavailable.c)
endif()
set(VK_AVX2_FLAGS -march=x86-64-v3)
set(VK_AVX512_FLAGS -march=x86-64-v4 -mprefer-vector-width=512)
set(VK_INT8_FLAGS ${VK_AVX512_FLAGS} -mavx512vnni)
set(VK_RESIZE_FLAGS -ffp-contract=off) # weights are rounded as Pillow rounds them
