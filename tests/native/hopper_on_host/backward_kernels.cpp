// The kernels of the backward, compiled for the host.
#define FOURREAL_HOPPER_EMULATION "emulation.hpp"
#include <hopper_attention_backward.cu>
