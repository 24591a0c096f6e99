// Memory that has not been written yet.
#pragma once

#include <cstddef>

namespace fourreal::cpu {

// Asks the system to back the whole huge pages inside these bytes by huge pages when they are first written: a page
// fault for every 2 MiB in place of one for every 4 KiB. Contents do not change. Does nothing where the system has no
// such advice.
void prefer_huge_pages(void* data, std::size_t bytes);

}  // namespace fourreal::cpu
