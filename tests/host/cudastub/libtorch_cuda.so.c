/* Link stub for PyPI's CUDA builds of torchvision and torchaudio beside a torch without CUDA. */
#include <stdio.h>
#include <stdlib.h>
#define STUB(name) void name(void) { fprintf(stderr, "CUDA stub called: " #name "\n"); abort(); }

STUB(_ZN2at4cuda26getCurrentDevicePropertiesEv)
STUB(aoti_torch_get_current_cuda_stream)
STUB(torch_c10_cuda_check_msg)
STUB(torch_c10_cuda_free_error_msg)
STUB(torch_cuda_stream_synchronize)
STUB(torch_get_cuda_stream_from_pool)
STUB(torch_set_current_cuda_stream)
