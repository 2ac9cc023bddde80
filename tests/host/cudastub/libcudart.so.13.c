/* Link stub for PyPI's CUDA builds of torchvision and torchaudio beside a torch without CUDA. */
#include <stdio.h>
#include <stdlib.h>
#define STUB(name) void name(void) { fprintf(stderr, "CUDA stub called: " #name "\n"); abort(); }

static void *handle[8];
void **__cudaRegisterFatBinary(void *p) { (void)p; return handle; }
char __cudaInitModule(void **p) { (void)p; return 0; }
void __cudaRegisterFatBinaryEnd(void) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
void __cudaUnregisterFatBinary(void) {}
STUB(__cudaGetKernel)
STUB(__cudaLaunchKernel)
STUB(__cudaPopCallConfiguration)
STUB(__cudaPushCallConfiguration)
STUB(cudaDeviceSynchronize)
STUB(cudaEventCreateWithFlags)
STUB(cudaEventDestroy)
STUB(cudaEventElapsedTime)
STUB(cudaEventQuery)
STUB(cudaEventRecord)
STUB(cudaEventRecordWithFlags)
STUB(cudaEventSynchronize)
STUB(cudaGetErrorString)
STUB(cudaGetErrorName)
STUB(cudaGetLastError)
STUB(cudaStreamIsCapturing)
STUB(cudaStreamSynchronize)
STUB(cudaStreamWaitEvent)
STUB(cudaMemcpyAsync)
STUB(cudaMemcpy2DAsync)
STUB(cudaMemset)
STUB(cudaMemsetAsync)
STUB(cudaSetDevice)
