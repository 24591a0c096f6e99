// The Hopper kernels, compiled for the host.
#define FOURREAL_HOPPER_EMULATION "emulation.hpp"
#include <hopper_attention.cu>

namespace hopper_on_host {

void set_launches(int most_blocks, int order) {
    multiprocessors = most_blocks;
    order_of_launches = order;
}

}  // namespace hopper_on_host
