// The micro-tests of the primitives, compiled for the host: they test the emulation, and the emulation them.
#define FOURREAL_HOPPER_EMULATION "emulation.hpp"
#include "../hopper_microtests/hopper_microtests.cu"
