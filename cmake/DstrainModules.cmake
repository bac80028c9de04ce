# One folder is one static library; its public face is include/dstrain.
set(DS_MODULES "" CACHE INTERNAL "")

# Flags that carry a promise: no contraction by the compiler, places in messages relative to the root.
add_library(ds_flags INTERFACE)
target_compile_features(ds_flags INTERFACE c_std_17)
target_compile_definitions(ds_flags INTERFACE _GNU_SOURCE DS_VERSION="${PROJECT_VERSION}")
target_compile_options(ds_flags INTERFACE
  -ffp-contract=off -fno-math-errno -fmacro-prefix-map=${CMAKE_SOURCE_DIR}/= -fvisibility=hidden
  -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes
  $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation>
  "$<$<C_COMPILER_ID:Clang>:-Wno-pass-failed;-Wno-unknown-pragmas>" # hints to gcc, or given up under a sanitizer
  $<$<BOOL:${DS_WERROR}>:-Werror>)
target_include_directories(ds_flags INTERFACE ${CMAKE_SOURCE_DIR}/include)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_FLAGS_RELEASE "-O3 -g")
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(DS_SANITIZE)
  add_compile_options(-fsanitize=${DS_SANITIZE} -fno-omit-frame-pointer -O1 -g)
  if(DS_SANITIZE STREQUAL thread) # kernels have no clones then: their fma would be a call; it runs where it is built
    add_compile_options(-O2 -march=native)
  endif()
  add_link_options(-fsanitize=${DS_SANITIZE})
endif()

function(ds_add_module name folder)
  cmake_parse_arguments(arg "" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.c ${CMAKE_SOURCE_DIR}/${folder}/*/*.c)
  if(folder STREQUAL launch)
    list(REMOVE_ITEM sources ${CMAKE_SOURCE_DIR}/launch/main.c)
  endif()
  list(FILTER sources EXCLUDE REGEX "/runtime/[a-z]+/(plugin_cpu|plugin_host|cuda|nccl)/") # of plugins alone
  if(NOT sources)
    add_library(dstrain_${name} INTERFACE)
    target_link_libraries(dstrain_${name} INTERFACE ds_flags)
    set(scope INTERFACE)
  else()
    add_library(dstrain_${name} STATIC ${sources})
    target_include_directories(dstrain_${name} PRIVATE ${CMAKE_SOURCE_DIR}/${folder}) # for its sub-folders
    set(scope PUBLIC)
  endif()
  set(links "")
  foreach(item ${arg_LINK})
    if(item MATCHES "^(base|storage|device|kernels|comm|zero|optim|model|data|parallel|checkpoint)$")
      list(APPEND links dstrain_${item})
    else()
      list(APPEND links ${item})
    endif()
  endforeach()
  target_link_libraries(dstrain_${name} ${scope} ds_flags ${links})
  set(DS_MODULES ${DS_MODULES} dstrain_${name} CACHE INTERNAL "")
endfunction()

# runtime/storage/storage.c is the one file that asks what was built in.
function(ds_configure_storage)
  get_target_property(type dstrain_storage TYPE)
  if(type STREQUAL STATIC_LIBRARY)
    target_compile_definitions(dstrain_storage PRIVATE DS_HAVE_URING=${DS_HAVE_URING})
    if(DS_HAVE_URING)
      target_link_libraries(dstrain_storage PUBLIC PkgConfig::URING)
    else()
      get_target_property(sources dstrain_storage SOURCES)
      list(FILTER sources EXCLUDE REGEX "uring")
      set_target_properties(dstrain_storage PROPERTIES SOURCES "${sources}")
    endif()
  endif()
endfunction()

# Where the openmp flavour of OpenBLAS was when dstrain was configured; looked for again at run time.
function(ds_configure_blas)
  find_library(DS_OPENBLAS NAMES libopenblas.so.0 PATH_SUFFIXES openblas-openmp)
  if(NOT DS_OPENBLAS)
    set(DS_OPENBLAS "")
    message(STATUS "OpenBLAS (libopenblas0-openmp): not found; looked for again when dstrain starts")
  endif()
  get_target_property(type dstrain_kernels TYPE)
  if(type STREQUAL STATIC_LIBRARY)
    target_compile_definitions(dstrain_kernels PRIVATE DS_OPENBLAS_PATH="${DS_OPENBLAS}")
  endif()
endfunction()

function(ds_add_program)
  if(EXISTS ${CMAKE_SOURCE_DIR}/launch/main.c)
    add_executable(dstrain launch/main.c)
    target_include_directories(dstrain PRIVATE ${CMAKE_SOURCE_DIR}/launch)
    target_link_libraries(dstrain PRIVATE dstrain_launch)
  endif()
endfunction()

# The cpu device a second time, as a plugin: the boundary is exercised where there is no GPU.
function(ds_add_plugins)
  if(NOT EXISTS ${CMAKE_SOURCE_DIR}/runtime/device/plugin_cpu/plugin_cpu.c)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/runtime/kernels/*.c
       ${CMAKE_SOURCE_DIR}/runtime/device/cpu/*.c)
  add_library(dstrain_cpu MODULE ${sources} ${CMAKE_SOURCE_DIR}/runtime/device/plugin_cpu/plugin_cpu.c
              ${CMAKE_SOURCE_DIR}/runtime/device/plugin_host/plugin_host.c
              ${CMAKE_SOURCE_DIR}/runtime/base/tensor.c ${CMAKE_SOURCE_DIR}/runtime/base/narrow.c
              ${CMAKE_SOURCE_DIR}/runtime/base/random.c ${CMAKE_SOURCE_DIR}/runtime/base/dequantise.c)
  target_include_directories(dstrain_cpu PRIVATE ${CMAKE_SOURCE_DIR}/runtime/device/plugin_host)
  target_link_libraries(dstrain_cpu PRIVATE ds_flags OpenMP::OpenMP_C Threads::Threads ${CMAKE_DL_LIBS} m)
  target_compile_definitions(dstrain_cpu PRIVATE DS_OPENBLAS_PATH="${DS_OPENBLAS}")
endfunction()
