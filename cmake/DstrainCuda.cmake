# libdstrain_cuda.so: device, kernels and NCCL in one plugin, which the program loads when it starts. The
# program itself links nothing of CUDA. Two answers: is there what it needs (DS_HAS_CUDA: tests that read its
# headers are built), and is it built (DS_BUILD_CUDA)? Not under sanitizers: they do not see the GPU's code, and
# nvcc would make all of it again.
set(DS_HAS_CUDA 0)
set(why "")
if(DS_CUDA STREQUAL OFF)
  set(why "DS_CUDA=OFF")
else()
  if(NOT CMAKE_CUDA_COMPILER)
    find_program(DS_NVCC nvcc HINTS /usr/local/cuda/bin)
    if(DS_NVCC)
      set(CMAKE_CUDA_COMPILER ${DS_NVCC})
    endif()
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    set(why "nvcc is not here (CUDA Toolkit 12.4 or newer)")
  else()
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES) # before the language is enabled
      set(CMAKE_CUDA_ARCHITECTURES 90a-real 80-real 80-virtual)
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit QUIET)
    find_path(DS_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    find_library(DS_NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR})
    find_path(DS_CUDNN_INCLUDE cudnn_graph.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    if(NOT TARGET CUDA::cublasLt)
      set(why "cuBLASLt is not here (CUDA Toolkit)")
    elseif(NOT DS_NCCL_INCLUDE OR NOT DS_NCCL_LIBRARY)
      set(why "NCCL is not here (libnccl-dev)")
    elseif(NOT DS_CUDNN_INCLUDE)
      set(why "cuDNN 9's headers are not here (cudnn9-cuda, libcudnn9-dev)")
    else()
      set(DS_HAS_CUDA 1)
    endif()
  endif()
endif()
if(DS_HAS_CUDA AND DS_SANITIZE)
  set(why "not under sanitizers (DS_SANITIZE=${DS_SANITIZE})")
endif()
set(DS_BUILD_CUDA 0)
if(why STREQUAL "")
  set(DS_BUILD_CUDA 1)
else()
  if(DS_CUDA STREQUAL ON)
    message(FATAL_ERROR "DS_CUDA=ON: ${why}")
  endif()
  message(STATUS "CUDA: not built: ${why}; dstrain runs on the cpu device")
endif()

function(ds_add_cuda_plugin)
  if(NOT DS_BUILD_CUDA)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS
       ${CMAKE_SOURCE_DIR}/runtime/device/cuda/*.c ${CMAKE_SOURCE_DIR}/runtime/device/cuda/*.cu
       ${CMAKE_SOURCE_DIR}/runtime/kernels/cuda/*.c ${CMAKE_SOURCE_DIR}/runtime/kernels/cuda/*.cu
       ${CMAKE_SOURCE_DIR}/runtime/comm/nccl/*.c ${CMAKE_SOURCE_DIR}/runtime/device/plugin_host/*.c
       ${CMAKE_SOURCE_DIR}/runtime/base/tensor.c ${CMAKE_SOURCE_DIR}/runtime/base/narrow.c
              ${CMAKE_SOURCE_DIR}/runtime/base/random.c)
  add_library(dstrain_cuda MODULE ${sources})
  target_include_directories(dstrain_cuda PRIVATE ${CMAKE_SOURCE_DIR}/include ${DS_NCCL_INCLUDE} ${DS_CUDNN_INCLUDE}
                             ${CMAKE_SOURCE_DIR}/runtime/device/cuda ${CMAKE_SOURCE_DIR}/runtime/device/plugin_host
                             ${CMAKE_SOURCE_DIR}/runtime/kernels/cuda)
  target_compile_definitions(dstrain_cuda PRIVATE _GNU_SOURCE DS_VERSION="${PROJECT_VERSION}")
  target_compile_options(dstrain_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:C>:-std=c17;-Wall;-Wextra;-fvisibility=hidden;-ffp-contract=off;-fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=>
    $<$<AND:$<COMPILE_LANGUAGE:C>,$<BOOL:${DS_WERROR}>>:-Werror>
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++17;--extended-lambda;-Xcompiler=-fvisibility=hidden;-Xcompiler=-fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=>
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${DS_WERROR}>>:-Werror=all-warnings>)
  set_target_properties(dstrain_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Shared INSTALL_RPATH "$ORIGIN;${CUDAToolkit_LIBRARY_DIR}"
                        BUILD_RPATH "${CUDAToolkit_LIBRARY_DIR}" C_VISIBILITY_PRESET hidden)
  # the optimizer and the step record round as the cpu does: no contraction that is not written
  set_source_files_properties(${CMAKE_SOURCE_DIR}/runtime/kernels/cuda/adamw.cu
                              ${CMAKE_SOURCE_DIR}/runtime/kernels/cuda/record.cu PROPERTIES COMPILE_OPTIONS --fmad=false)
  target_link_libraries(dstrain_cuda PRIVATE CUDA::cudart CUDA::cublasLt ${DS_NCCL_LIBRARY} ${CMAKE_DL_LIBS} m)
  target_link_options(dstrain_cuda PRIVATE -Wl,-z,lazy)
endfunction()
