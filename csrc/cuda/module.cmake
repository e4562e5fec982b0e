# lanner._cuda: the kernels for NVIDIA GPUs, as a module of its own that is loaded on first use.
#
# nvcc is called by commands of ours: CMake's own support of CUDA links a program first to see whether it can, which
# with the compiler from the package index fails (its libraries are where only -L finds them).

get_filename_component(LANNER_CSRC ${CMAKE_CURRENT_LIST_DIR} DIRECTORY)

# --- nvcc -----------------------------------------------------------------------------------------------
# CUDA_HOME, PATH, then the packages cuda-toolkit[nvcc,cudart,cccl]==13.0.* of the environment that builds.
execute_process(COMMAND ${Python_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('platlib'))"
                OUTPUT_VARIABLE LANNER_SITE_PACKAGES OUTPUT_STRIP_TRAILING_WHITESPACE)
find_program(LANNER_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin PATHS ${LANNER_SITE_PACKAGES}/nvidia/cu13/bin)
set(LANNER_CUDA_MISSING "")
if(NOT LANNER_NVCC)
  set(LANNER_CUDA_MISSING "nvcc was not found")
elseif(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  set(LANNER_CUDA_MISSING "nvcc is used with GCC or Clang")
else()
  execute_process(COMMAND ${LANNER_NVCC} --version OUTPUT_VARIABLE LANNER_NVCC_VERSION ERROR_QUIET)
  string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" found "${LANNER_NVCC_VERSION}")
  set(LANNER_NVCC_VERSION ${CMAKE_MATCH_1})
  # Where the toolkit lies: nvcc may be a link or a script.
  execute_process(COMMAND ${LANNER_NVCC} --dryrun -x cu -c /dev/null -o lanner.o ERROR_VARIABLE LANNER_CUDA_ROOT)
  string(REGEX MATCH "TOP=([^\r\n]+)" found "${LANNER_CUDA_ROOT}")
  set(LANNER_CUDA_ROOT ${CMAKE_MATCH_1})
  find_path(LANNER_CUDA_INCLUDE cuda_runtime_api.h NO_DEFAULT_PATH
            PATHS ${LANNER_CUDA_ROOT}/include ${LANNER_CUDA_ROOT}/targets/x86_64-linux/include $ENV{CUDA_HOME}/include)
  find_library(LANNER_CUDART cudart_static NO_DEFAULT_PATH
               PATHS ${LANNER_CUDA_ROOT}/lib64 ${LANNER_CUDA_ROOT}/lib ${LANNER_CUDA_ROOT}/targets/x86_64-linux/lib
                     $ENV{CUDA_HOME}/lib64)
  if(NOT LANNER_NVCC_VERSION OR LANNER_NVCC_VERSION VERSION_LESS 12.8)
    set(LANNER_CUDA_MISSING "nvcc is of CUDA ${LANNER_NVCC_VERSION}, wanted 12.8 or later (${LANNER_NVCC})")
  elseif(NOT LANNER_CUDA_INCLUDE OR NOT LANNER_CUDART)
    set(LANNER_CUDA_MISSING "cuda_runtime_api.h or libcudart_static.a was not found around ${LANNER_NVCC}")
  else()
    # Every nvcc knows host compilers up to some version, and refuses those to come.
    set(stem ${CMAKE_CURRENT_BINARY_DIR}/cuda/empty)
    file(WRITE ${stem}.cu "")
    execute_process(COMMAND ${LANNER_NVCC} -c ${stem}.cu -o ${stem}.o -std=c++20 -ccbin ${CMAKE_CXX_COMPILER}
                            -gencode arch=compute_80,code=compute_80
                    RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
    if(failed)
      string(REGEX MATCH "[^\n]*error[^\n]*" reason "${said}")
      string(CONCAT LANNER_CUDA_MISSING "${LANNER_NVCC} compiles nothing with ${CMAKE_CXX_COMPILER} "
                                        "(${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}): ${reason}")
    endif()
  endif()
endif()
if(LANNER_CUDA_MISSING)
  if(LANNER_CUDA STREQUAL "on")
    message(FATAL_ERROR "LANNER_CUDA=on: ${LANNER_CUDA_MISSING}")
  endif()
  message(STATUS "Built without CUDA: ${LANNER_CUDA_MISSING}")
  return()
endif()
message(STATUS "CUDA ${LANNER_NVCC_VERSION}: ${LANNER_NVCC}")

# --- one object per kernel file, with code for every GPU --------------------------------------------------
# sm_90a has instructions that no other has. PTX serves GPUs to come: the driver translates it.
# Architectures that run the same source share its PTX (tests/cuda/toolkit.py): a third of the time.
set(LANNER_CUDA_CODE -gencode arch=compute_80,code=[sm_80,sm_86,sm_89,compute_80]
                     -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_90,code=[sm_100,sm_120,compute_90]
    CACHE STRING "Which code nvcc makes: fewer architectures compile faster")

set(LANNER_CUDA_OBJECTS "")
file(GLOB LANNER_CUDA_UNITS CONFIGURE_DEPENDS ${LANNER_CSRC}/cuda/*.cuh)
foreach(unit IN LISTS LANNER_CUDA_UNITS)
  get_filename_component(name ${unit} NAME_WE)
  file(CONFIGURE OUTPUT cuda/${name}.cu CONTENT "#include \"cuda/${name}.cuh\"\n" @ONLY)
  set(stem ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name})
  add_custom_command(
    OUTPUT ${stem}.o
    COMMAND ${LANNER_NVCC} -c ${stem}.cu -o ${stem}.o -MD -MF ${stem}.d -std=c++20 -O3 ${LANNER_CUDA_CODE}
            -ccbin ${CMAKE_CXX_COMPILER} -Xcompiler -fPIC,-fvisibility=hidden -I ${LANNER_CSRC}
    DEPENDS ${stem}.cu ${unit} DEPFILE ${stem}.d
    COMMENT "Building CUDA object ${name}.o" VERBATIM COMMAND_EXPAND_LISTS)
  list(APPEND LANNER_CUDA_OBJECTS ${stem}.o)
endforeach()

# --- the module -------------------------------------------------------------------------------------------
# The static runtime: without a driver the module loads all the same, and says what is missing.
file(GLOB LANNER_CUDA_HOST CONFIGURE_DEPENDS ${LANNER_CSRC}/cuda/*.cpp ${LANNER_CSRC}/cuda/ptx/*.cpp
     ${LANNER_CSRC}/bind/cuda/*.cpp)
pybind11_add_module(_cuda NO_EXTRAS ${LANNER_CUDA_HOST} ${LANNER_CSRC}/ops/step_check.cpp ${LANNER_CUDA_OBJECTS})
# As system headers ours give no warnings: what kernels call is declared in them, and defined by nvcc alone.
target_include_directories(_cuda SYSTEM PRIVATE ${LANNER_CSRC} ${LANNER_CUDA_INCLUDE})
target_compile_definitions(_cuda PRIVATE LANNER_CUDA_MODULE=_cuda)
target_compile_options(_cuda PRIVATE -Wall -Wextra)
target_link_libraries(_cuda PRIVATE ${LANNER_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
list(APPEND LANNER_MODULES _cuda)
